/* No wake-up outlives what it was for: timed waits end at their own deadline, neither before it nor much after it,
 * while interrupts are recorded and taken back, or cleared, right around them. And each interrupt is seen exactly once.
 */
#include "support.h"

#include "api.h"
#include "libc_types.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>

#define WAIT_US 1000 /* of most waits; longer: */
static long wait_us = WAIT_US;
#define LATE PATIENCE_NS /* a busy machine may take seconds; a wait that is begun again and again takes for ever */

struct things {
    int pipe[2], epoll, semaphores, queue;
    mqd_t mq;
    sem_t sem;
    sigset_t unused;
};
static struct things have;

static struct timespec later(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += wait_us % 1000000 * 1000;
    t.tv_sec += wait_us / 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}
#define brief ((struct timespec){wait_us / 1000000, wait_us % 1000000 * 1000})

/* Each gives 0 when its time was up, else an error number. */
static int is(long result, int timed_out) {
    return result == -1 && errno == timed_out ? 0 : result == -1 ? errno : EPROTO;
}
static int is_zero(long result) { return result == 0 ? 0 : result == -1 ? errno : EPROTO; }

static int w_nanosleep(void) { return is_zero(nanosleep(&brief, NULL)); }
static int w_clock_nanosleep(void) { return clock_nanosleep(CLOCK_MONOTONIC, 0, &brief, NULL); }
static int w_clock_nanosleep_abs(void) {
    struct timespec t = later(CLOCK_MONOTONIC);
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static int w_usleep(void) { return is_zero(usleep((useconds_t)wait_us)); }
static struct pollfd *one(void) {
    static struct pollfd set;
    set = (struct pollfd){.fd = have.pipe[0], .events = POLLIN};
    return &set;
}
static int w_poll(void) { return is_zero(poll(one(), 1, (int)(wait_us / 1000))); }
static int w_poll_none(void) { return is_zero(poll(NULL, 0, (int)(wait_us / 1000))); }
static int w_ppoll(void) { return is_zero(ppoll(one(), 1, &brief, NULL)); }
static int w_ppoll_none(void) { return is_zero(ppoll(NULL, 0, &brief, &have.unused)); }
static int w_select(void) {
    fd_set set;
    struct timeval t = {wait_us / 1000000, wait_us % 1000000};
    FD_ZERO(&set);
    FD_SET(have.pipe[0], &set);
    int error = is_zero(select(have.pipe[0] + 1, &set, NULL, NULL, &t));
    return error == 0 && FD_ISSET(have.pipe[0], &set) ? EPROTO : error;
}
static int w_select_none(void) {
    struct timeval t = {wait_us / 1000000, wait_us % 1000000};
    return is_zero(select(0, NULL, NULL, NULL, &t));
}
static int w_pselect(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(have.pipe[0], &set);
    return is_zero(pselect(have.pipe[0] + 1, &set, NULL, NULL, &brief, &have.unused));
}
static int w_epoll_wait(void) {
    struct epoll_event event;
    return is_zero(epoll_wait(have.epoll, &event, 1, (int)(wait_us / 1000)));
}
static int w_epoll_pwait(void) {
    struct epoll_event event;
    return is_zero(epoll_pwait(have.epoll, &event, 1, (int)(wait_us / 1000), &have.unused));
}
static int w_epoll_pwait2(void) {
    struct epoll_event event;
    return is_zero(epoll_pwait2(have.epoll, &event, 1, &brief, NULL));
}
static int w_sem_timedwait(void) {
    struct timespec t = later(CLOCK_REALTIME);
    return is(sem_timedwait(&have.sem, &t), ETIMEDOUT);
}
static int w_sem_clockwait(void) {
    struct timespec t = later(CLOCK_MONOTONIC);
    return is(sem_clockwait(&have.sem, CLOCK_MONOTONIC, &t), ETIMEDOUT);
}
static int w_sigtimedwait(void) { return is(sigtimedwait(&have.unused, NULL, &brief), EAGAIN); }
static int w_semtimedop(void) {
    struct sembuf take = {0, -1, 0};
    return is(semtimedop(have.semaphores, &take, 1, &brief), EAGAIN);
}
static int w_mq_timedreceive(void) {
    char text[8];
    struct timespec t = later(CLOCK_REALTIME);
    return is(mq_timedreceive(have.mq, text, sizeof text, NULL, &t), ETIMEDOUT);
}

#define WAIT(name)                                                                                                     \
    { #name, w_##name }
static const struct {
    const char *name;
    int (*wait)(void);
} waits[] = {
    WAIT(nanosleep),     WAIT(clock_nanosleep), WAIT(clock_nanosleep_abs), WAIT(usleep),          WAIT(poll),
    WAIT(poll_none),     WAIT(ppoll),           WAIT(ppoll_none),          WAIT(select),          WAIT(select_none),
    WAIT(pselect),       WAIT(epoll_wait),      WAIT(epoll_pwait),         WAIT(epoll_pwait2),    WAIT(sem_timedwait),
    WAIT(sem_clockwait), WAIT(sigtimedwait),    WAIT(semtimedop),          WAIT(mq_timedreceive),
};

struct target {
    size_t which;
    unsigned rounds;
    _Atomic bool finished;
    _Atomic unsigned broken;
    unsigned cleared;
    int wrong; /* an error number that none may give */
    int64_t early, late;
    bool by_stub;
};

static void wait_often(void *arg) {
    struct target *t = arg;
    const struct itr_stub_api *api = itr_stub_api();
    for (unsigned i = 0; i < t->rounds && t->wrong == 0; i++) {
        int64_t start = now_ns();
        int error = waits[t->which].wait();
        int64_t took = now_ns() - start;
        if (error == ECANCELED) {
            t->broken++;
            if (t->by_stub) {
                api->consume(api->self(), ITR_PENDING_API);
            } else if (itr_clear() == 1) {
                t->cleared++;
            } else {
                t->wrong = EALREADY; /* broken without anything pending */
            }
        } else if (error != 0) {
            t->wrong = error;
        } else {
            int64_t over = took - WAIT_US * 1000;
            t->early = over < t->early ? over : t->early;
            t->late = over > t->late ? over : t->late;
        }
        if (!t->by_stub && i % 3 == 0) {
            t->cleared +=
                (unsigned)itr_clear(); /* one that came after the wait: its wake-up must not end the next one */
        }
    }
    t->finished = true;
}

static void check(const struct target *t) {
    if (t->wrong != 0) {
        fail_msg("%s: %s", waits[t->which].name, strerror(t->wrong));
    }
    if (t->early < 0) {
        fail_msg("%s: ended %lld ns before its time", waits[t->which].name, (long long)-t->early);
    }
    if (t->late > LATE) {
        fail_msg("%s: ended %lld ms after its time", waits[t->which].name, (long long)(t->late / MS));
    }
}

/* Raised and taken back: unless the wait was broken for it, in which case it cannot be taken back. */
static void retracted(void **state) {
    uint64_t seed = stress_seed();
    unsigned rounds = stress_count(40);
    const struct itr_stub_api *api = itr_stub_api();
    (void)state;
    for (size_t i = 0; i < COUNT(waits); i++) {
        struct worker w;
        struct target t = {.which = i, .rounds = rounds, .by_stub = true};
        unsigned raised = 0;
        unsigned kept = 0;
        worker_start(&w, true);
        struct itr_slot *slot = api->lock_thread(w.thread);
        itr_ref ref = itr_ref_of(slot);
        api->unlock(slot);
        worker_give(&w, wait_often, &t);
        while (!t.finished) {
            unsigned before = 0;
            bool back = false;
            api->raise(ref, ITR_PENDING_API);
            raised++;
            spin_ns((int64_t)(next_random(&seed) % 100000)); /* about as long as the target takes to wake up */
            if (api->retract(ref, ITR_PENDING_API)) {
                back = true;
                before = t.broken; /* with this one, if it was delivered before */
            } else {
                kept++;
                int64_t since = now_ns();
                while (itr_pending(w.thread) == 1 && !t.finished) {
                    check_patience(since, waits[i].name);
                }
            }
            spin_ns((int64_t)(next_random(&seed) % (WAIT_US * 400)));
            if (back && t.broken != before) {
                fail_msg("%s: broken for what was taken back", waits[i].name);
            }
        }
        worker_wait(&w);
        worker_stop(&w);
        check(&t);
        if (t.broken < kept || t.broken > raised) {
            fail_msg("%s: broken %u times, raised %u, not taken back %u", waits[i].name, t.broken, raised, kept);
        }
    }
}

/* What itr_wake_locked() does, for an interrupt that was taken back before its target had a look. */
static bool wake_for_nothing(struct itr_slot *slot) {
    uint64_t word = slot->park;
    enum itr_kind kind = ITR_PARK_KIND(word);
    if (kind == ITR_PARK_NONE || kind == ITR_PARK_CLOSED || (word & ITR_PARK_WAKING) != 0 ||
        !atomic_compare_exchange_strong(&slot->park, &word, word | ITR_PARK_WAKING)) {
        return false;
    }
    if (kind == ITR_PARK_FDSET && slot->pipe[1] >= 0) {
        slot->piped = write(slot->pipe[1], "", 1) == 1;
    } else if (slot->sig_sent == slot->sig_seen) {
        if (kind == ITR_PARK_DEADLINE) {
            slot->deadline = (struct timespec){0, 0};
        }
        slot->sig_seen = ++slot->sig_sent; /* its own handler does not know this one */
        pthread_kill(slot->thread, itr_stub_api()->signal_number());
    }
    atomic_fetch_and(&slot->park, ~ITR_PARK_WAKING);
    return true;
}

static bool wake_for_nothing_locked(struct itr_slot *slot) {
    pthread_mutex_lock(&slot->lock);
    bool woken = wake_for_nothing(slot);
    pthread_mutex_unlock(&slot->lock);
    return woken;
}

struct one_wait {
    size_t which;
    _Atomic int64_t start;
    int64_t took;
    int error;
};

static void wait_once(void *arg) {
    struct one_wait *o = arg;
    o->start = now_ns();
    o->error = waits[o->which].wait();
    o->took = now_ns() - o->start;
}

/* Woken in vain, a wait goes on for the rest of its time. One that began anew would take all of it from then: never
 * less, however quiet the machine. One that goes on takes less unless the machine is late, and then it gets another
 * try, in which there is twice the room. */
static void goes_on_for_the_rest(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    (void)state;
    for (size_t i = 0; i < COUNT(waits); i++) {
        int64_t since = now_ns();
        bool good = false;
        for (wait_us = 4 * WAIT_US; !good; wait_us *= 2) {
            struct worker w;
            struct one_wait o = {.which = i};
            worker_start(&w, true);
            struct itr_slot *slot = api->lock_thread(w.thread);
            api->unlock(slot);
            worker_give(&w, wait_once, &o);
            while (worker_busy(&w) && (o.start == 0 || now_ns() - o.start < wait_us * 500)) {
                breathe();
            }
            int64_t before = now_ns() - o.start;
            bool woken = wake_for_nothing_locked(slot) && now_ns() - o.start < wait_us * 1000;
            worker_wait(&w);
            worker_stop(&w);
            assert_int_equal(o.error, 0);
            assert_true(o.took >= wait_us * 1000);
            good = woken && o.took < before + wait_us * 1000;
            check_patience(since, waits[i].name);
        }
    }
    wait_us = WAIT_US;
}

/* Woken in vain again and again, a wait goes on for the rest of its time, and not for all of it anew. */
static void woken_for_nothing(void **state) {
    uint64_t seed = stress_seed();
    unsigned rounds = stress_count(20);
    const struct itr_stub_api *api = itr_stub_api();
    (void)state;
    for (size_t i = 0; i < COUNT(waits); i++) {
        struct worker w;
        struct target t = {.which = i, .rounds = rounds};
        worker_start(&w, true);
        struct itr_slot *slot = api->lock_thread(w.thread);
        api->unlock(slot);
        worker_give(&w, wait_often, &t);
        for (int64_t since = now_ns(); !t.finished;) {
            wake_for_nothing_locked(slot);
            spin_ns((int64_t)(next_random(&seed) % (WAIT_US * 200)));
            if (now_ns() - since > LATE + 2 * WAIT_US * 1000 * (int64_t)rounds) {
                while (!t.finished) { /* let it end */
                    breathe();
                }
                print_error("%s: does not end\n", waits[i].name);
            }
        }
        worker_wait(&w);
        worker_stop(&w);
        check(&t);
        assert_int_equal(t.broken, 0);
    }
}

/* Recorded from outside, seen or cleared by the thread itself: each exactly once. */
static void cleared(void **state) {
    uint64_t seed = stress_seed();
    unsigned rounds = stress_count(40);
    (void)state;
    for (size_t i = 0; i < COUNT(waits); i++) {
        struct worker w;
        struct target t = {.which = i, .rounds = rounds};
        unsigned recorded = 0;
        worker_start(&w, true);
        worker_give(&w, wait_often, &t);
        while (!t.finished) {
            recorded += itr_interrupt(w.thread) == ITR_OK;
            spin_ns((int64_t)(next_random(&seed) % (3 * WAIT_US * 1000)));
        }
        worker_wait(&w);
        unsigned left = itr_pending(w.thread) == 1;
        worker_stop(&w);
        check(&t);
        if (t.cleared + left != recorded) {
            fail_msg("%s: %u recorded, %u cleared, %u left", waits[i].name, recorded, t.cleared, left);
        }
    }
}

static int make(void **state) {
    (void)state;
    sigemptyset(&have.unused);
    sigaddset(&have.unused, SIGUSR1);
    have.mq = scratch_queue(4, 8);
    have.semaphores = semget(IPC_PRIVATE, 1, 0600);
    have.epoll = epoll_create1(EPOLL_CLOEXEC);
    return pthread_sigmask(SIG_BLOCK, &have.unused, NULL) | pipe(have.pipe) | sem_init(&have.sem, 0, 0) |
           (have.semaphores < 0) | (have.epoll < 0);
}
static int unmake(void **state) {
    (void)state;
    return semctl(have.semaphores, 0, IPC_RMID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(woken_for_nothing), cmocka_unit_test(goes_on_for_the_rest),
                                       cmocka_unit_test(retracted), cmocka_unit_test(cleared)};
    return cmocka_run_group_tests(tests, make, unmake);
}
