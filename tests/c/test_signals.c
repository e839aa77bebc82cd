/* The wake-up signal comes through: whatever the program blocks, waits for, or gets at the same time, and when another
 * runtime takes the signal away. Each test runs in a child of its own, as dispositions last. */
#include "breaks.h"

#include "api.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the program's mask ------------------------------------------------------------------------------------------ */

static int in_set(int sig, int how, const sigset_t *set) {
    sigset_t old;
    EXPECT(pthread_sigmask(how, set, &old) == 0);
    return sigismember(&old, sig);
}

static void mask_reads_back(void *arg) {
    struct reader *r = arg;
    sigset_t urgent;
    sigset_t full;
    sigset_t old;
    sigset_t none;
    sigemptyset(&urgent);
    sigaddset(&urgent, SIGURG);
    sigfillset(&full);
    sigemptyset(&none);
    int wrong = 0;
    wrong |= in_set(SIGURG, SIG_BLOCK, NULL) != 1; /* inherited, blocked */
    wrong |= in_set(SIGURG, SIG_UNBLOCK, &urgent) != 1;
    wrong |= in_set(SIGURG, SIG_BLOCK, &urgent) != 0;
    wrong |= in_set(SIGURG, SIG_SETMASK, &none) != 1;
    wrong |= in_set(SIGUSR1, SIG_SETMASK, &full) != 0;
    wrong |= in_set(SIGURG, SIG_SETMASK, &full) != 1;
    wrong |= in_set(SIGUSR1, SIG_BLOCK, NULL) != 1;
    wrong |= sigprocmask(SIG_BLOCK, NULL, &old) != 0 || sigismember(&old, SIGURG) != 1;
    wrong |= sigprocmask(SIG_UNBLOCK, &full, &old) != 0 || sigismember(&old, SIGURG) != 1;
    wrong |= sigprocmask(SIG_SETMASK, &full, &old) != 0 || sigismember(&old, SIGURG) != 0;
    wrong |= pthread_sigmask(99, &full, &old) != EINVAL;
    wrong |= sigprocmask(99, &full, &old) != -1;
    r->result = wrong;
}

static int blocked(void *arg) {
    struct worker w;
    struct reader r = {.result = -1};
    sigset_t full;
    (void)arg;
    sigfillset(&full); /* before the thread starts, so it inherits it */
    EXPECT(pthread_sigmask(SIG_SETMASK, &full, NULL) == 0);
    worker_start(&w, true);
    EXPECT(breaks(&w) == 0);
    worker_do(&w, mask_reads_back, &r);
    EXPECT(r.result == 0);
    EXPECT(breaks(&w) == 0); /* with everything blocked, as it believes */
    worker_stop(&w);
    return 0;
}

/* ---- sigwait ----------------------------------------------------------------------------------------------------- */

static void wait_for_any(void *arg) {
    struct reader *r = arg;
    sigset_t full;
    int sig = 0;
    sigfillset(&full);
    pthread_sigmask(SIG_SETMASK, &full, NULL);
    for (int i = 0; r->result == 0; i++) {
        r->error = i % 2 == 0 ? sigwait(&full, &sig) : (sig = sigwaitinfo(&full, NULL)) > 0 ? 0 : errno;
        if (r->error == ECANCELED) {
            r->seen += itr_clear();
        } else {
            r->result = r->error == 0 ? sig : -1;
        }
    }
}

static int full_set(void *arg) {
    struct worker w;
    struct reader r = {.result = 0};
    (void)arg;
    worker_start(&w, true);
    worker_give(&w, wait_for_any, &r);
    for (int i = 1; i <= 100; i++) {
        await_parked(w.thread, i % 2 == 1 ? "sigwait" : "sigwaitinfo");
        EXPECT(itr_interrupt(w.thread) == ITR_OK);
        for (int64_t since = now_ns(); r.seen < i; breathe()) {
            EXPECT(r.result == 0 && now_ns() - since < PATIENCE_NS);
        }
    }
    pthread_kill(w.thread, SIGUSR2);
    worker_wait(&w);
    EXPECT(r.result == SIGUSR2);
    EXPECT(r.seen == 100);
    worker_stop(&w);
    return 0;
}

/* ---- signals that do not end calls ------------------------------------------------------------------------------- */

static void read_often(void *arg) {
    struct reader *r = arg;
    char byte;
    while (r->result == 0) {
        ssize_t n = read(r->ends[0], &byte, 1);
        if (n == -1 && errno == ECANCELED) {
            r->seen += itr_clear();
        } else {
            r->result = n == 1 && byte == 'x' ? 1 : -1;
            r->error = errno;
        }
    }
}

/* The kernel restarts a call when the first of two handlers says so: a wake-up that comes together with such a signal
 * may be swallowed, and has to be repeated. */
static int storm(void *arg) {
    struct worker w;
    struct reader r = {.result = 0};
    uint64_t seed = stress_seed();
    int rounds = 0;
    (void)arg;
    EXPECT(pipe(r.ends) == 0);
    count_signal(SIGUSR1, SA_RESTART);
    worker_start(&w, true);
    worker_give(&w, read_often, &r);
    for (int64_t start = now_ns(); stress_goes_on((unsigned)rounds, 500, start);) {
        rounds++;
        spin_ns((int64_t)(next_random(&seed) % 20000));
        bool first = next_random(&seed) % 2 == 0;
        if (first) {
            pthread_kill(w.thread, SIGUSR1);
        }
        EXPECT(itr_interrupt(w.thread) == ITR_OK);
        if (!first) {
            pthread_kill(w.thread, SIGUSR1);
        }
        for (int64_t since = now_ns(); r.seen < rounds;) {
            EXPECT(r.result == 0 && now_ns() - since < PATIENCE_NS);
        }
    }
    EXPECT(write(r.ends[1], "x", 1) == 1);
    worker_wait(&w);
    EXPECT(r.result == 1 && r.seen == rounds);
    worker_stop(&w);
    return 0;
}

/* ---- another runtime takes the signal ---------------------------------------------------------------------------- */

/* What the kernel takes, without libc and so without us. */
struct raw_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

/* Another runtime's way to take a signal. */
static void take_away(int sig, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction act;
    struct raw_action raw;
    /* libc knows the restorer: install by libc for another signal and copy. */
    memset(&act, 0, sizeof act);
    act.sa_sigaction = handler;
    act.sa_flags = SA_RESTART | SA_SIGINFO;
    sigaction(SIGUSR2, &act, NULL);
    syscall(SYS_rt_sigaction, SIGUSR2, NULL, &raw, sizeof raw.mask);
    syscall(SYS_rt_sigaction, sig, &raw, NULL, sizeof raw.mask);
}

static _Atomic(void *) mark; /* what a wake-up carries */
static void foreign(int sig, siginfo_t *info, void *context) {
    (void)sig;
    (void)context;
    atomic_store(&mark, info->si_value.sival_ptr);
}

static int taken(void *arg) {
    enum { THREADS = 4 };
    struct worker w[THREADS];
    struct reader r[THREADS];
    int first = itr_stub_api()->signal_number();
    (void)arg;
    for (int i = 0; i < THREADS; i++) {
        worker_start(&w[i], true);
        EXPECT(pipe(r[i].ends) == 0);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++) {
            worker_give(&w[i], do_read, &r[i]);
            await_parked(w[i].thread, "read");
        }
        take_away(itr_stub_api()->signal_number(), foreign);
        EXPECT(!itr_stub_api()->signal_ours());
        for (int i = 0; i < THREADS; i++) {
            EXPECT(itr_interrupt(w[i].thread) == ITR_OK);
        }
        for (int i = 0; i < THREADS; i++) {
            int cleared = 0;
            worker_wait(&w[i]);
            EXPECT(r[i].result == -1 && r[i].error == ECANCELED);
            worker_do(&w[i], clear, &cleared);
            EXPECT(cleared == 1);
        }
        EXPECT(itr_stub_api()->signal_ours());
    }
    EXPECT(itr_stub_api()->signal_number() != first);
    EXPECT(breaks(&w[0]) == 0);
    for (int i = 0; i < THREADS; i++) {
        worker_stop(&w[i]);
    }
    return 0;
}

/* The same in a thread that blocks every signal, the one it moves to included. */
static void block_all(void *arg) {
    sigset_t full;
    (void)arg;
    sigfillset(&full);
    pthread_sigmask(SIG_SETMASK, &full, NULL);
}

static int taken_and_blocked(void *arg) {
    struct worker w;
    struct reader r;
    (void)arg;
    worker_start(&w, true);
    worker_do(&w, block_all, NULL);
    EXPECT(pipe(r.ends) == 0);
    worker_give(&w, do_read, &r);
    await_parked(w.thread, "read");
    take_away(SIGURG, foreign);
    EXPECT(itr_interrupt(w.thread) == ITR_OK);
    worker_wait(&w);
    EXPECT(r.result == -1 && r.error == ECANCELED);
    worker_stop(&w);
    return 0;
}

/* ---- another process knows the mark ------------------------------------------------------------------------------ */

static _Atomic int seen_info;
static void counts_info(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)info, (void)context;
    atomic_fetch_add(&seen_info, 1);
}

/* A wake-up is one of this process. (Who takes the number away sees it; another number is used from then.) */
static int known_mark(void *arg) {
    struct worker w;
    struct sigaction act;
    (void)arg;
    memset(&act, 0, sizeof act);
    worker_start(&w, true);
    take_away(SIGURG, foreign);
    EXPECT(breaks(&w) == 0);
    EXPECT(mark != NULL);
    int sig = itr_stub_api()->signal_number();
    EXPECT(sig != SIGURG && itr_stub_api()->signal_ours());
    act.sa_sigaction = counts_info;
    act.sa_flags = SA_SIGINFO;
    EXPECT(sigaction(sig, &act, NULL) == 0);
    EXPECT(child_sends(sig, true, (union sigval){.sival_ptr = mark}, 0) > 0);
    EXPECT(comes(&seen_info, 1));
    EXPECT(breaks(&w) == 0);
    EXPECT(seen_info == 1);
    worker_stop(&w);
    return 0;
}

/* ---- libc's own signals ------------------------------------------------------------------------------------------ */

/* Who waits for one of them, by system call, has it blocked for good: to start the monitor must not let it in. */
static int libcs_own(void *arg) {
    struct worker w;
    uint64_t own = UINT64_C(1) << 31;
    uint64_t before;
    uint64_t after;
    (void)arg;
    worker_start(&w, true);
    EXPECT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &own, NULL, sizeof own) == 0);
    EXPECT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &before, sizeof before) == 0);
    EXPECT(itr_interrupt(w.thread) == ITR_OK);
    EXPECT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &after, sizeof after) == 0);
    EXPECT(after == before);
    worker_stop(&w);
    return 0;
}

static void a_mark_that_others_know(void **state) { (void)state, in_child(known_mark, NULL); }
static void program_masks(void **state) { (void)state, in_child(blocked, NULL); }
static void sigwait_on_a_full_set(void **state) { (void)state, in_child(full_set, NULL); }
static void restarting_signals(void **state) { (void)state, in_child(storm, NULL); }
static void signals_of_libc(void **state) { (void)state, in_child(libcs_own, NULL); }
static void another_runtime(void **state) { (void)state, in_child(taken, NULL); }
static void another_runtime_and_blocked(void **state) { (void)state, in_child(taken_and_blocked, NULL); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mark_that_others_know),
        cmocka_unit_test(program_masks),
        cmocka_unit_test(sigwait_on_a_full_set),
        cmocka_unit_test(restarting_signals),
        cmocka_unit_test(signals_of_libc),
        cmocka_unit_test(another_runtime),
        cmocka_unit_test(another_runtime_and_blocked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
