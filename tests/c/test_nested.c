/* The program's handlers run at any instruction of a call that waits: beside a wake-up of ours, they wait themselves,
 * and they jump away. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <ucontext.h>
#include <unistd.h>

static int ends[2];

static int make(void **state) {
    (void)state;
    return pipe(ends);
}

/* ---- a stale wake-up beside a signal of the program's ------------------------------------------------------------ */

static int in_sigsuspend(const sigset_t *mask) { return sigsuspend(mask); }
static int in_pause(const sigset_t *mask) {
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    return pause();
}
static int in_ppoll(const sigset_t *mask) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    return ppoll(&one, 1, NULL, mask);
}
static int in_ppoll_none(const sigset_t *mask) { return ppoll(NULL, 0, NULL, mask); }
static int in_pselect(const sigset_t *mask) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    return pselect(ends[0] + 1, &set, NULL, NULL, NULL, mask);
}
static int epoll_set;
static int in_epoll_pwait(const sigset_t *mask) {
    struct epoll_event event;
    return epoll_pwait(epoll_set, &event, 1, -1, mask);
}
static int in_epoll_pwait2(const sigset_t *mask) {
    struct epoll_event event;
    return epoll_pwait2(epoll_set, &event, 1, NULL, mask);
}
/* These go on: nothing is let in that would not come anyway. */
static int in_ppoll_same(const sigset_t *mask) {
    struct timespec t = {LONG_MS / 1000, 0};
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    return ppoll(NULL, 0, &t, mask);
}
static int in_poll(const sigset_t *mask) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    return poll(&one, 1, LONG_MS);
}

#define SUSPENDED(name, error)                                                                                         \
    { #name, in_##name, error }
static const struct {
    const char *name;
    int (*wait)(const sigset_t *mask);
    int error;
} suspended[] = {
    SUSPENDED(sigsuspend, EINTR), SUSPENDED(pause, EINTR),        SUSPENDED(ppoll, EINTR),
    SUSPENDED(ppoll_none, EINTR), SUSPENDED(pselect, EINTR),      SUSPENDED(epoll_pwait, EINTR),
    SUSPENDED(poll, ECANCELED),   SUSPENDED(epoll_pwait2, EINTR), SUSPENDED(ppoll_same, ECANCELED),
};

struct suspended_wait {
    size_t which;
    int error;
};

static void wait_for_handler(void *arg) {
    struct suspended_wait *s = arg;
    sigset_t usr1;
    sigset_t before;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, &before);
    s->error = suspended[s->which].wait(&before) == -1 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The handler is all that the program waits for; a wait that goes on behind it never ends. */
static void handler_and_stale_wake_up(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    (void)state;
    epoll_set = epoll_create1(EPOLL_CLOEXEC);
    assert_true(epoll_set >= 0);
    count_signal(SIGUSR1, 0);
    for (size_t i = 0; i < COUNT(suspended); i++) {
        struct worker w;
        struct suspended_wait s = {.which = i};
        print_message("%s\n", suspended[i].name);
        worker_start(&w, true);
        worker_give(&w, wait_for_handler, &s);
        struct itr_where where = {.call = NULL};
        for (int64_t since = now_ns(); where.call == NULL || task_state(w.tid) != 'S'; breathe()) {
            assert_int_equal(itr_where(w.thread, &where), ITR_OK);
            check_patience(since, suspended[i].name);
        }
        struct itr_slot *slot = api->lock_thread(w.thread);
        int before = signals_seen;
        slot->park |= ITR_PARK_WAKING;
        slot->sig_seen = ++slot->sig_sent; /* as if the wake-up signal had come, for what was taken back since */
        assert_int_equal(pthread_kill(w.thread, SIGUSR1), 0);
        slot->park &= ~ITR_PARK_WAKING;
        api->unlock(slot);
        if (suspended[i].error == ECANCELED) { /* it waits on */
            for (int64_t since = now_ns(); signals_seen == before; breathe()) {
                check_patience(since, "the handler");
            }
            for (int64_t since = now_ns(); worker_busy(&w) && task_state(w.tid) != 'S'; breathe()) {
                check_patience(since, suspended[i].name);
            }
            assert_int_equal(itr_interrupt(w.thread), ITR_OK);
        }
        worker_wait(&w);
        assert_int_equal(signals_seen, before + 1);
        assert_int_equal(s.error, suspended[i].error);
        worker_stop(&w);
    }
    close(epoll_set);
}

/* ---- a handler that waits ---------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define SINGLE_STEP 0x100 /* in the flags: SIGTRAP after each instruction */

/* Volatile: a handler's, on the same thread. */
static volatile bool stepping;
static volatile long steps;

static void sleeps(int sig, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    struct timespec moment = {0, 1000};
    (void)sig, (void)info;
    if (stepping) {
        steps++;
        nanosleep(&moment, NULL);
    } else {
        interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)SINGLE_STEP;
    }
}

static inline void start_stepping(void) {
    stepping = true;
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
}

/* They say whether it ended before its time. */
#define LONG_NS (300 * MS)
static bool nanosleep_ends_early(void) {
    struct timespec t = {0, LONG_NS};
    int64_t start = now_ns();
    start_stepping();
    int result = nanosleep(&t, NULL);
    stepping = false;
    return result == 0 && now_ns() - start < LONG_NS;
}
static bool sem_clockwait_ends_early(void) {
    sem_t sem;
    sem_init(&sem, 0, 0);
    int64_t until = now_ns() + LONG_NS;
    struct timespec t = {until / 1000000000, until % 1000000000};
    start_stepping();
    int result = sem_clockwait(&sem, CLOCK_MONOTONIC, &t);
    int error = errno;
    stepping = false;
    sem_destroy(&sem);
    return result == -1 && error == ETIMEDOUT && now_ns() < until;
}

static void sleep_with_handlers(void *arg) {
    int *early = arg;
    *early = nanosleep_ends_early() + 10 * sem_clockwait_ends_early();
}

/* The deadline that a waker moves lies in the slot: a wait in a handler, wherever that comes, must not replace it. */
static void handler_sleeps(void **state) {
    struct worker w;
    struct sigaction act = {.sa_sigaction = sleeps, .sa_flags = SA_SIGINFO};
    int early = 0;
    (void)state;
    assert_int_equal(sigaction(SIGTRAP, &act, NULL), 0);
    worker_start(&w, true);
    worker_do(&w, sleep_with_handlers, &early);
    assert_true(steps > 100);
    worker_stop(&w);
    signal(SIGTRAP, SIG_DFL);
    assert_int_equal(early, 0);
}
#endif

/* ---- a handler that jumps ---------------------------------------------------------------------------------------- */

static sigjmp_buf out;

static void jumps(int sig) {
    (void)sig;
    siglongjmp(out, 1);
}

struct jumper {
    _Atomic int jumped;
    int error;
};

static void reads_twice(void *arg) {
    struct jumper *j = arg;
    char byte;
    if (sigsetjmp(out, 1) == 0) {
        read(ends[0], &byte, 1);
        return;
    }
    j->jumped = 1;
    j->error = read(ends[0], &byte, 1) == -1 ? errno : 0;
}

/* The call that it jumped out of is over: the next one is a wait of its own. */
static void jump_out(void **state) {
    struct worker w;
    struct jumper j = {.jumped = 0};
    struct sigaction act = {.sa_handler = jumps};
    (void)state;
    assert_int_equal(sigaction(SIGUSR2, &act, NULL), 0);
    worker_start(&w, true);
    worker_give(&w, reads_twice, &j);
    await_parked(w.thread, "read");
    assert_int_equal(pthread_kill(w.thread, SIGUSR2), 0);
    for (int64_t since = now_ns(); !j.jumped; breathe()) {
        check_patience(since, "the jump");
    }
    await_parked(w.thread, "read");
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    worker_wait(&w);
    assert_int_equal(j.error, ECANCELED);
    worker_stop(&w);
}

static _Atomic int wrote;

static void writes(int sig) { wrote = write(ends[1], "x", 1) == 1 ? sig : -1; }

/* It parks below its alternate signal stack, which is part of its own. */
static void parks_below(void *arg) {
    struct jumper *j = arg;
    char memory[64 * 1024];
    stack_t alternate = {.ss_sp = memory, .ss_size = sizeof memory};
    struct pollfd none = {.fd = -1};
    sigaltstack(&alternate, NULL);
    j->error = poll(&none, 1, LONG_MS) == -1 ? errno : 0;
    alternate.ss_flags = SS_DISABLE;
    sigaltstack(&alternate, NULL);
}

/* A handler on another stack, at a higher address, is nested all the same. */
static void handler_above(void **state) {
    struct worker w;
    struct jumper j = {.jumped = 0};
    struct sigaction act = {.sa_handler = writes, .sa_flags = SA_ONSTACK};
    struct itr_where first;
    struct itr_where then;
    char byte;
    (void)state;
    assert_int_equal(sigaction(SIGUSR2, &act, NULL), 0);
    worker_start(&w, true);
    worker_give(&w, parks_below, &j);
    await_parked(w.thread, "poll");
    assert_int_equal(itr_where(w.thread, &first), ITR_OK);
    struct itr_slot *slot = itr_stub_api()->lock_thread(w.thread);
    slot->park |= ITR_PARK_WAKING; /* so that it cannot leave before we have looked */
    assert_int_equal(pthread_kill(w.thread, SIGUSR2), 0);
    for (int64_t since = now_ns(); wrote == 0; breathe()) {
        check_patience(since, "the handler");
    }
    then.parks = slot->parks;
    slot->park &= ~ITR_PARK_WAKING;
    itr_stub_api()->unlock(slot);
    assert_int_equal(wrote, SIGUSR2);
    assert_int_equal(then.parks, first.parks);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    await_parked(w.thread, "poll");
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    worker_wait(&w);
    assert_int_equal(j.error, ECANCELED);
    worker_stop(&w);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handler_and_stale_wake_up),
#if defined(__x86_64__)
        cmocka_unit_test(handler_sleeps),
#endif
        cmocka_unit_test(jump_out),
        cmocka_unit_test(handler_above),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, make, NULL);
}
