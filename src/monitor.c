#include "monitor.h"

#include "park.h"
#include "preload.h"
#include "signals.h"
#include "unseen.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FIRST_NS 100000 /* 100 us */
#define SURE_NS                                                                                                        \
    5000000              /* 5 ms: beyond the kernel's next tick, so that setting the alarm programs no hardware (6 us) \
                          */
#define MOST_NS 10000000 /* 10 ms */
#define LAST_NS 1000000000 /* 1 s, once it has tried for long */
#define LONG_TRIES 200
#define FORGOTTEN_TRIES 40000 /* of some 70 us: a busy machine may keep a task that ends waiting for its last steps */
#define DOCTOR_TRIES 4        /* and at 8, 16, ... */
#define IDLE_NS 200000000     /* with nothing to watch, the thread ends after this */

_Atomic(int64_t (*)(struct itr_slot *, itr_ref, uint32_t)) itr_on_running;

/* monitor_lock guards everything here. Order: it is never held while a slot's lock is taken. */
static pthread_mutex_t monitor_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t monitor_cond;
static bool cond_made;
static bool running;
static int start_error; /* why it does not run although it should: pthread_create's error number */
static bool stopping;
static unsigned forbidden; /* forks in progress, finalisation: by how many it must not run */
static pthread_t monitor_thread;
static pid_t monitor_tid;

/* The monitor sleeps until this time; INT64_MIN while it is awake, and will look at the list before it sleeps. */
static int64_t asleep_until = INT64_MIN;

/* The alarm clock. To wake a thread costs about as much as a whole interrupt, and what is watched is mostly done with
 * before it is due: so the monitor is not woken now, its timer is set. The timer's signal goes to the monitor alone,
 * which takes it by sigtimedwait; it is the one libc keeps for this very purpose, so nobody else sends it to the
 * process. Without a timer (a sandbox, an emulator, RLIMIT_SIGPENDING) the condition variable does. */
#define ALARM_SIGNAL 32
#ifndef sigev_notify_thread_id /* glibc keeps the name to itself */
#define sigev_notify_thread_id _sigev_un._tid
#endif
static bool alarmed; /* the timer is there, and the monitor waits for its signal */
static int alarm_timer;

static void make_alarm(void) {
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = ALARM_SIGNAL;
    event.sigev_value.sival_ptr = &alarm_timer;
    event.sigev_notify_thread_id = monitor_tid;
    uint64_t set = UINT64_C(1) << (ALARM_SIGNAL - 1);
    /* libc's own calls refuse to touch this signal. */
    alarmed = syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, sizeof set) == 0 &&
              syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &alarm_timer) == 0;
}

static bool set_alarm(int64_t when) {
    struct itimerspec at = {{0, 0}, {when / 1000000000, when % 1000000000}};
    return syscall(SYS_timer_settime, alarm_timer, TIMER_ABSTIME, &at, NULL) == 0;
}

/* The list is the slots' own: watch_next chains them, so watching allocates nothing. */
static uint32_t watch_head; /* index + 1 */

static void *run(void *unused);

static void start_locked(void) {
    if (running || stopping || forbidden != 0) {
        return;
    }
    if (!cond_made) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&monitor_cond, &attr);
        pthread_condattr_destroy(&attr);
        cond_made = true;
    }
    uint64_t before;
    itr_signals_block(&before);
    start_error = pthread_create(&monitor_thread, NULL, run, NULL);
    running = start_error == 0;
    itr_signals_restore(&before);
}

static int64_t patience(const struct itr_slot *slot, enum itr_wake woken) {
    if (woken == ITR_WAKE_SURE) {
        return SURE_NS;
    }
    bool parked = atomic_load_explicit(&slot->park, memory_order_relaxed) != 0;
    return woken == ITR_WAKE_LIKELY || parked ? FIRST_NS : 0;
}

void itr_monitor_watch(itr_ref ref, enum itr_wake woken) {
    struct itr_slot *slot = itr_slot_of_ref(ref);
    if (slot == NULL) {
        return;
    }
    pthread_mutex_lock(&monitor_lock);
    slot->tries = 0;
    slot->next_ns = itr_now_ns() + patience(slot, woken);
    if (!slot->watched) {
        slot->watched = true;
        slot->watch_next = watch_head;
        watch_head = slot->index + 1;
    }
    start_locked();
    if (slot->next_ns < asleep_until) {
        asleep_until = slot->next_ns;
        if (!alarmed || !set_alarm(slot->next_ns)) {
            pthread_cond_signal(&monitor_cond);
        }
    }
    pthread_mutex_unlock(&monitor_lock);
}

void itr_monitor_rush(void) {
    itr_unseen_bound();
    /* Who starts the monitor holds the lock, and libc may want the linker's for that, which our caller may hold. Then
     * it is awake, or comes by itself within a second. */
    if (pthread_mutex_trylock(&monitor_lock) != 0) {
        return;
    }
    int64_t now = watch_head == 0 ? 0 : itr_now_ns();
    for (uint32_t next = watch_head; next != 0; next = itr_slot_at(next - 1)->watch_next) {
        struct itr_slot *slot = itr_slot_at(next - 1);
        slot->tries = 0;
        slot->next_ns = now;
    }
    if (watch_head != 0 && now < asleep_until) {
        asleep_until = now;
        if (!alarmed || !set_alarm(now)) {
            pthread_cond_signal(&monitor_cond);
        }
    }
    pthread_mutex_unlock(&monitor_lock);
}

static int64_t backoff(uint32_t tries) {
    if (tries > LONG_TRIES) {
        return LAST_NS;
    }
    int64_t delay = FIRST_NS;
    for (uint32_t i = 0; i < tries && delay < MOST_NS; i++) {
        delay *= 2;
    }
    return delay < MOST_NS ? delay : MOST_NS;
}

/* One look at one slot, without monitor_lock. Returns the delay until the next look, or -1: nothing more to do. */
static int64_t look(struct itr_slot *slot, uint32_t tries) {
    pthread_mutex_lock(&slot->lock);
    bool wanted = atomic_load_explicit(&slot->live, memory_order_relaxed) != 0 &&
                  atomic_load_explicit(&slot->pending, memory_order_seq_cst) != 0;
    bool parked = false;
    bool asked = false;
    itr_ref ref = itr_ref_of(slot);
    if (wanted) {
        uint64_t word = atomic_load_explicit(&slot->park, memory_order_seq_cst);
        enum itr_kind kind = ITR_PARK_KIND(word);
        parked = kind != ITR_PARK_NONE;
        if (parked && itr_wake_locked(slot) != ITR_WAKE_NONE && tries > 0) {
            slot->wake_fails++;
            asked = true;
        }
    }
    pthread_mutex_unlock(&slot->lock);
    if (!wanted) {
        return -1;
    }
    if (parked) {
        if (asked && tries >= DOCTOR_TRIES && (tries & (tries - 1)) == 0) {
            itr_signals_doctor(slot, tries);
        }
        return backoff(tries);
    }
    int64_t (*on_running)(struct itr_slot *, itr_ref, uint32_t) =
        atomic_load_explicit(&itr_on_running, memory_order_acquire);
    int64_t delay = on_running == NULL ? 0 : on_running(slot, ref, tries);
    delay = delay > 0 ? delay : backoff(tries);
    int64_t unseen = itr_unseen_look(slot, ref);
    return unseen > 0 && unseen < delay ? unseen : delay;
}

static void sleep_until(int64_t when) {
    asleep_until = when;
    if (alarmed && set_alarm(when)) {
        int64_t left = when - itr_now_ns();
        struct timespec at_most = {left > 0 ? left / 1000000000 : 0, left > 0 ? left % 1000000000 : 0};
        uint64_t set = UINT64_C(1) << (ALARM_SIGNAL - 1);
        pthread_mutex_unlock(&monitor_lock);
        /* With a time-out all the same: a lost alarm must not stop it for good. */
        syscall(SYS_rt_sigtimedwait, &set, NULL, &at_most, sizeof set);
        pthread_mutex_lock(&monitor_lock);
    } else {
        struct timespec at = {when / 1000000000, when % 1000000000};
        pthread_cond_timedwait(&monitor_cond, &monitor_lock, &at);
    }
    asleep_until = INT64_MIN;
}

/* The watched slot that is due first. monitor_lock held. */
static struct itr_slot *first_due(void) {
    struct itr_slot *best = NULL;
    for (uint32_t next = watch_head; next != 0;) {
        struct itr_slot *slot = itr_slot_at(next - 1);
        if (best == NULL || slot->next_ns < best->next_ns) {
            best = slot;
        }
        next = slot->watch_next;
    }
    return best;
}

static void unwatch_locked(struct itr_slot *gone) {
    for (uint32_t *link = &watch_head; *link != 0; link = &itr_slot_at(*link - 1)->watch_next) {
        if (*link == gone->index + 1) {
            *link = gone->watch_next;
            gone->watched = false;
            return;
        }
    }
}

static void *run(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "itr-monitor");
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_mutex_lock(&monitor_lock);
    monitor_tid = (pid_t)syscall(SYS_gettid);
    make_alarm();
    int64_t idle_since = 0;
    while (!stopping) {
        struct itr_slot *slot = first_due();
        int64_t now = itr_now_ns();
        if (slot == NULL) {
            if (idle_since == 0) {
                idle_since = now;
            }
            if (now - idle_since >= IDLE_NS) {
                break;
            }
            sleep_until(idle_since + IDLE_NS);
            continue;
        }
        idle_since = 0;
        if (slot->next_ns > now) {
            sleep_until(slot->next_ns);
            continue;
        }
        uint32_t tries = slot->tries++;
        int64_t claimed = slot->next_ns = INT64_MAX; /* a watch() meanwhile sets an earlier time */
        pthread_mutex_unlock(&monitor_lock);
        int64_t delay = look(slot, tries);
        pthread_mutex_lock(&monitor_lock);
        if (slot->next_ns != claimed) {
            continue;
        }
        if (delay < 0) {
            unwatch_locked(slot);
        } else {
            slot->next_ns = itr_now_ns() + delay;
        }
    }
    if (alarmed) {
        syscall(SYS_timer_delete, alarm_timer);
        alarmed = false;
    }
    running = false;
    if (!stopping) {
        pthread_detach(pthread_self()); /* ends by itself; nobody joins it */
    }
    pthread_mutex_unlock(&monitor_lock);
    return NULL;
}

static void stop_locked(void) {
    while (stopping) { /* by another thread: it can be joined only once */
        pthread_cond_wait(&monitor_cond, &monitor_lock);
    }
    if (!running) {
        return;
    }
    stopping = true;
    pthread_t thread = monitor_thread;
    if (alarmed) {
        set_alarm(1); /* in the past: at once */
    }
    pthread_cond_broadcast(&monitor_cond);
    pthread_mutex_unlock(&monitor_lock);
    pthread_join(thread, NULL);
    /* The join returns a moment before the kernel has forgotten the task, and CPython 3.12+ counts tasks after a fork
     * to warn about them. */
    pid_t tid = monitor_tid; /* which it may have written only now */
    const struct timespec moment = {0, 20000};
    for (int i = 0; i < FORGOTTEN_TRIES && tid != 0 && syscall(SYS_tgkill, getpid(), tid, 0) == 0; i++) {
        itr_real.clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
    }
    pthread_mutex_lock(&monitor_lock);
    stopping = false;
    running = false;
    pthread_cond_broadcast(&monitor_cond);
}

void itr_monitor_stop(void) {
    pthread_mutex_lock(&monitor_lock);
    forbidden++; /* first, so that none starts while another thread's fork ends */
    stop_locked();
    pthread_mutex_unlock(&monitor_lock);
}

void itr_monitor_after_fork(bool child) {
    if (child) {
        pthread_mutex_init(&monitor_lock, NULL);
        running = stopping = cond_made = alarmed = false; /* a timer is not inherited */
        start_error = 0;
        asleep_until = INT64_MIN;
        /* CPython is still mending itself for the child, and what the stub would do with a running thread meets keys
         * and locks that are being made anew. The stub says when that is over (lifecycle.c); if it never does, because
         * it was not Python that forked, then Python must not be used in this child anyway. */
        forbidden = atomic_load_explicit(&itr_on_running, memory_order_relaxed) != NULL ? 1 : 0;
        monitor_tid = 0;
        watch_head = 0; /* the table has cleared every slot's `watched` */
        if (itr_self != NULL && atomic_load_explicit(&itr_self->pending, memory_order_relaxed) != 0) {
            itr_monitor_watch(itr_ref_of(itr_self), ITR_WAKE_NONE);
        }
        return;
    }
    pthread_mutex_lock(&monitor_lock);
    if (forbidden > 0) {
        forbidden--;
    }
    if (watch_head != 0) {
        start_locked();
    }
    pthread_mutex_unlock(&monitor_lock);
}

int itr_monitor_error(void) {
    pthread_mutex_lock(&monitor_lock);
    if (start_error != 0) {
        start_error = 0;
        if (watch_head != 0) {
            start_locked();
        }
    }
    int answer = start_error;
    pthread_mutex_unlock(&monitor_lock);
    return answer;
}

bool itr_monitor_runs(void) {
    pthread_mutex_lock(&monitor_lock);
    bool answer = running;
    pthread_mutex_unlock(&monitor_lock);
    return answer;
}
