/* What else a program does to its threads while they wait or wake others: it cancels them, its handlers run at any
 * instruction and wait themselves, they jump away, and it closes what it finds. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static int ends[2];

static int make(void **state) {
    (void)state;
    return pipe(ends);
}

static void wait_to_read(void *arg) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    *(int *)arg = poll(&one, 1, 20000) == -1 ? errno : 0;
}

/* ---- cancellation ------------------------------------------------------------------------------------------------ */

static void *interrupts_then_ends(void *arg) {
    struct worker *w = arg;
    pthread_cancel(pthread_self());
    itr_interrupt(w->thread);
    pthread_testcancel();
    return NULL;
}

/* To wake another thread is no cancellation point: one that ended there would keep the slot locked. */
static void cancelled_waker(void **state) {
    struct worker w;
    pthread_t waker;
    void *result = NULL;
    int error = -1;
    (void)state;
    worker_start(&w, true);
    worker_give(&w, wait_to_read, &error);
    await_parked(w.thread, "poll");
    assert_int_equal(pthread_create(&waker, NULL, interrupts_then_ends, &w), 0);
    assert_int_equal(pthread_join(waker, &result), 0);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    worker_wait(&w);
    assert_int_equal(error, ECANCELED);
    assert_int_equal(itr_pending(w.thread), 1);
    worker_stop(&w);
}

static void *breaks_then_ends(void *arg) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    if (itr_attach() != ITR_OK || poll(&one, 1, 1) != 0) { /* now it has its pipe */
        return NULL;
    }
    pthread_cancel(pthread_self());
    itr_interrupt(pthread_self());
    itr_stub_api()->self()->piped = true; /* as if a waker had been there: so it empties the pipe */
    *(bool *)arg = poll(&one, 1, 1) == -1 && errno == ECANCELED;
    pthread_testcancel();
    return NULL;
}

/* Nor is to leave a park. */
static void cancelled_target(void **state) {
    pthread_t thread;
    void *result = NULL;
    bool broken = false;
    struct timespec patience;
    (void)state;
    clock_gettime(CLOCK_REALTIME, &patience);
    patience.tv_sec += PATIENCE_NS / 1000000000;
    assert_int_equal(pthread_create(&thread, NULL, breaks_then_ends, &broken), 0);
    assert_int_equal(pthread_timedjoin_np(thread, &result, &patience), 0);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    assert_true(broken);
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
    struct timespec t = {0, 100 * MS};
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    return ppoll(NULL, 0, &t, mask);
}
static int in_poll(const sigset_t *mask) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    return poll(&one, 1, 100);
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
    SUSPENDED(poll, 0),           SUSPENDED(epoll_pwait2, EINTR), SUSPENDED(ppoll_same, 0),
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
        worker_wait(&w);
        assert_int_equal(signals_seen, before + 1);
        assert_int_equal(s.error, suspended[i].error);
        worker_stop(&w);
    }
    close(epoll_set);
}

/* ---- locks of files ---------------------------------------------------------------------------------------------- */

static bool locked(int fd, int command) {
    struct flock lock = {.l_type = F_WRLCK};
    return fcntl(fd, command, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Whatever is pending, and with the commands that may wait too, a lock is let go of. */
static void unlocks(void *arg) {
    char path[] = "/tmp/itr-interplay-XXXXXX";
    int fd = mkstemp(path);
    int other = open(path, O_RDWR | O_CLOEXEC); /* an open file description of its own */
    struct flock lock = {.l_type = F_WRLCK};
    bool held = fcntl(fd, F_OFD_SETLKW, &lock) == 0 && locked(other, F_OFD_GETLK);
    itr_interrupt(pthread_self());
    lock.l_type = F_UNLCK;
    *(bool *)arg = held && fcntl(fd, F_OFD_SETLKW, &lock) == 0 && !locked(other, F_OFD_GETLK);
    itr_clear();
    lock.l_type = F_WRLCK;
    held = fcntl(fd, F_SETLKW, &lock) == 0 && locked(other, F_OFD_GETLK);
    itr_interrupt(pthread_self());
    lock.l_type = F_UNLCK;
    *(bool *)arg =
        *(bool *)arg && held && fcntl(fd, F_SETLKW, &lock) == 0 && !locked(other, F_OFD_GETLK) && itr_clear() == 1;
    close(other);
    close(fd);
    unlink(path);
}

static void unlocking(void **state) {
    struct worker w;
    bool good = false;
    (void)state;
    worker_start(&w, true);
    worker_do(&w, unlocks, &good);
    assert_true(good);
    worker_stop(&w);
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

/* ---- descriptors of ours that the program closes ----------------------------------------------------------------- */

static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

struct closed_end {
    int which;
    bool by_select;
    int result;
    int64_t took, busy;
};

static void wait_without_an_end(void *arg) {
    struct closed_end *c = arg;
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    struct timeval t = {0, 300000};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    poll(&one, 1, 1); /* now it has its pipe */
    syscall(SYS_close, itr_stub_api()->self()->pipe[c->which]);
    int64_t start = now_ns();
    int64_t busy = cpu_ns();
    c->result = c->by_select ? select(ends[0] + 1, &set, NULL, NULL, &t) : poll(&one, 1, 300);
    c->busy = cpu_ns() - busy;
    c->took = now_ns() - start;
}

/* Closed by a system call that nobody sees, and nothing under the number since: the wait is as long as ever, costs
 * nothing, and can be interrupted. */
static void one_end_closed(void **state) {
    int before = open_fds();
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct worker w;
        struct closed_end c = {.which = i / 2, .by_select = i % 2 != 0};
        int error = 0;
        worker_start(&w, true);
        worker_do(&w, wait_without_an_end, &c);
        assert_int_equal(c.result, 0);
        assert_true(c.took >= 300 * MS);
        assert_true(c.busy < 100 * MS);
        worker_give(&w, wait_to_read, &error);
        await_parked(w.thread, "poll");
        assert_int_equal(itr_interrupt(w.thread), ITR_OK);
        worker_wait(&w);
        assert_int_equal(error, ECANCELED);
        worker_stop(&w);
    }
    assert_true(open_fds() <= before + 2); /* one pipe is kept for the next */
}

static int fails_to_dup2(int fd) { return dup2(-1, fd); }
static int fails_to_dup3(int fd) { return dup3(-1, fd, O_CLOEXEC); }
static int fails_to_close_range(int fd) { return close_range((unsigned)fd, (unsigned)fd, ~4); }

static void poll_briefly(void *arg) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    (void)arg;
    poll(&one, 1, 1);
}

/* A call that was to replace or to close a descriptor of ours, and fails, leaves it to nobody but us. */
static void failing_calls(void **state) {
    static int (*const calls[])(int) = {fails_to_dup2, fails_to_dup3, fails_to_close_range};
    struct worker w;
    struct worker other; /* its pipe is in the pool */
    (void)state;
    worker_start(&w, true);
    for (size_t i = 0; i < COUNT(calls); i++) {
        int before = -1;
        for (int round = 0; round < 10; round++) {
            worker_start(&other, true);
            worker_do(&other, poll_briefly, NULL);
            worker_do(&w, poll_briefly, NULL);
            worker_stop(&other);
            int count = open_fds();
            before = before < 0 ? count : before;
            assert_int_equal(count, before);
            for (int fd = 3; fd < 100; fd++) {
                assert_int_equal(calls[i](fd), -1);
            }
        }
    }
    worker_stop(&w);
}

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
    j->error = poll(&none, 1, 20000) == -1 ? errno : 0;
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
        cmocka_unit_test(cancelled_waker),
        cmocka_unit_test(cancelled_target),
        cmocka_unit_test(handler_and_stale_wake_up),
        cmocka_unit_test(unlocking),
#if defined(__x86_64__)
        cmocka_unit_test(handler_sleeps),
#endif
        cmocka_unit_test(one_end_closed),
        cmocka_unit_test(failing_calls),
        cmocka_unit_test(jump_out),
        cmocka_unit_test(handler_above),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, make, NULL);
}
