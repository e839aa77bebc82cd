/* The program goes on seeing its own disposition of the wake-up signal: its handlers get each signal that is not ours,
 * and none of ours. Each test runs in a child of its own, as dispositions last. */
#include "breaks.h"
#include "rows.h"

#include "api.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* ---- the program's own handler ----------------------------------------------------------------------------------- */

static _Atomic int seen_info;
static void with_info(int sig, siginfo_t *info, void *context) {
    (void)context;
    if (sig == SIGURG && info != NULL) {
        atomic_fetch_add(&seen_info, 1);
    }
}

static int handlers(void *arg) {
    struct worker w;
    struct sigaction act;
    struct sigaction old;
    int urgent = itr_stub_api()->signal_number();
    int (*interrupts)(int, int) =
        (int (*)(int, int))function_named("siginterrupt").plain; /* deprecated: no prototype */
    (void)arg;
    EXPECT(urgent == SIGURG);
    count_signal(SIGURG, SA_RESTART); /* before anything is attached */
    worker_start(&w, true);
    EXPECT(breaks(&w) == 0);
    EXPECT(signals_seen == 0); /* it sees nothing of ours */
    EXPECT(sigaction(SIGURG, NULL, &old) == 0);
    EXPECT((old.sa_flags & SA_RESTART) != 0 && (old.sa_flags & SA_SIGINFO) == 0);
    kill(getpid(), SIGURG); /* somebody else's: to the program */
    EXPECT(comes(&signals_seen, 1));
    raise(SIGURG); /* the program's own, to a thread that is not attached */
    EXPECT(comes(&signals_seen, 2));
    pthread_kill(w.thread, SIGURG); /* ... and to one that is */
    EXPECT(comes(&signals_seen, 3));
    memset(&act, 0, sizeof act);
    act.sa_sigaction = with_info;
    act.sa_flags = SA_SIGINFO;
    EXPECT(sigaction(SIGURG, &act, &old) == 0); /* after it */
    EXPECT(sigaction(SIGURG, NULL, &old) == 0);
    EXPECT(old.sa_sigaction == with_info && (old.sa_flags & SA_SIGINFO) != 0);
    EXPECT(breaks(&w) == 0);
    EXPECT(seen_info == 0);
    kill(getpid(), SIGURG);
    EXPECT(comes(&seen_info, 1));
    EXPECT(interrupts(SIGURG, 0) == 0);
    EXPECT(sigaction(SIGURG, NULL, &old) == 0 && (old.sa_flags & SA_RESTART) != 0);
    EXPECT(interrupts(SIGURG, 1) == 0);
    EXPECT(sigaction(SIGURG, NULL, &old) == 0 && (old.sa_flags & SA_RESTART) == 0);
    EXPECT(signal(SIGURG, SIG_IGN) != SIG_ERR);
    EXPECT(signal(SIGURG, SIG_DFL) == SIG_IGN);
    EXPECT(breaks(&w) == 0);
    kill(getpid(), SIGURG); /* ignored */
    EXPECT(seen_info == 1 && signals_seen == 3);
    worker_stop(&w);
    return 0;
}

/* ---- other processes' signals ------------------------------------------------------------------------------------ */

static _Atomic int seen_value, seen_pid, seen_count;
static void with_value(int sig, siginfo_t *info, void *context) {
    (void)sig;
    (void)context;
    seen_value = info->si_code == SI_QUEUE ? info->si_value.sival_int : -1;
    seen_pid = info->si_pid;
    atomic_fetch_add(&seen_count, 1);
}

static void read_through(void *arg) {
    struct reader *r = arg;
    do {
        do_read(r);
    } while (r->result == -1 && r->error == EINTR);
}

static int other_processes(void *arg) {
    struct worker w;
    struct reader r;
    struct sigaction act;
    int count = 0;
    (void)arg;
    memset(&act, 0, sizeof act);
    act.sa_sigaction = with_value;
    act.sa_flags = SA_SIGINFO | SA_RESTART;
    EXPECT(sigaction(SIGURG, &act, NULL) == 0);
    worker_start(&w, true);
    EXPECT(breaks(&w) == 0);
    EXPECT(pipe(r.ends) == 0);
    worker_give(&w, read_through, &r); /* one that waits all along */
    await_parked(w.thread, "read");
    for (int round = 0; round < 10; round++) {
        pid_t child = child_sends(SIGURG, true, (union sigval){.sival_int = round}, 0);
        EXPECT(comes(&seen_count, ++count) && seen_value == round && seen_pid == child);
        EXPECT(sigqueue(getpid(), SIGURG, (union sigval){.sival_int = ~round}) == 0);
        EXPECT(comes(&seen_count, ++count) && seen_value == ~round && seen_pid == getpid());
        EXPECT(child_sends(SIGURG, false, (union sigval){.sival_int = 0}, round % 2 == 0 ? 0 : w.tid) > 0);
        EXPECT(comes(&seen_count, ++count) && seen_value == -1);
    }
    EXPECT(write(r.ends[1], "x", 1) == 1);
    worker_wait(&w);
    EXPECT(r.result == 1);
    EXPECT(breaks(&w) == 0);
    EXPECT(seen_count == count);
    worker_stop(&w);
    return 0;
}

/* ---- at once ----------------------------------------------------------------------------------------------------- */

/* Our handler hands on each of those that come to several threads at once. */
enum { RAISERS = 4 };

static void *raises(void *arg) {
    _Atomic unsigned *raised = arg;
    int64_t since = now_ns();
    unsigned count = 0;
    for (; stress_goes_on(count, 200000, since); count++) {
        raise(SIGURG);
    }
    *raised += count;
    return NULL;
}

static int at_once(void *arg) {
    struct worker w;
    pthread_t threads[RAISERS];
    _Atomic unsigned raised = 0;
    (void)arg;
    count_signal(SIGURG, 0);
    worker_start(&w, true);
    for (int i = 0; i < RAISERS; i++) {
        EXPECT(pthread_create(&threads[i], NULL, raises, &raised) == 0);
    }
    for (int i = 0; i < RAISERS; i++) {
        EXPECT(pthread_join(threads[i], NULL) == 0);
    }
    EXPECT(signals_seen == (int)raised);
    EXPECT(breaks(&w) == 0);
    worker_stop(&w);
    return 0;
}

static void program_handlers(void **state) { (void)state, in_child(handlers, NULL); }
static void program_handlers_at_once(void **state) { (void)state, in_child(at_once, NULL); }
static void signals_of_other_processes(void **state) { (void)state, in_child(other_processes, NULL); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(program_handlers),
        cmocka_unit_test(program_handlers_at_once),
        cmocka_unit_test(signals_of_other_processes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
