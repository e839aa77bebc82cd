/* The program's own handler of the wake-up signal is called as the kernel would call it, and a thread that was attached
 * for a while has the mask afterwards that it had before. */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t inside, nested, calls;

static void within(int sig) {
    (void)sig;
    nested += inside;
}

static void counts(int sig) {
    (void)sig;
    calls++;
    inside = 1;
    raise(SIGUSR1);
    inside = 0;
}

static void handle(int sig, void (*function)(int), int flags, int masked) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = function;
    action.sa_flags = flags;
    if (masked != 0) {
        sigaddset(&action.sa_mask, masked);
    }
    assert_int_equal(sigaction(sig, &action, NULL), 0);
    inside = nested = calls = 0;
}

static void raise_twice(void *arg) {
    (void)arg;
    raise(SIGURG);
    raise(SIGURG);
}

static void do_in_attached_thread(void (*job)(void *), void *arg) {
    struct worker w;
    worker_start(&w, true);
    worker_do(&w, job, arg);
    worker_stop(&w);
}

static void mask_of_the_handler(void **state) {
    (void)state;
    handle(SIGUSR1, within, 0, 0);
    handle(SIGURG, counts, 0, SIGUSR1);
    do_in_attached_thread(raise_twice, NULL);
    assert_int_equal(calls, 2);
    assert_int_equal(nested, 0);
    handle(SIGURG, counts, 0, 0);
    do_in_attached_thread(raise_twice, NULL);
    assert_int_equal(nested, 2);
}

static void handler_that_is_there_once(void **state) {
    (void)state;
    struct sigaction now;
    handle(SIGURG, counts, (int)SA_RESETHAND, 0);
    do_in_attached_thread(raise_twice, NULL);
    assert_int_equal(calls, 1);
    assert_int_equal(sigaction(SIGURG, NULL, &now), 0);
    assert_true(now.sa_handler == SIG_DFL);
}

static int blocks(void) {
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    return sigismember(&now, SIGURG);
}

static void attach_and_detach(void *arg) {
    int *blocked = arg;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    blocked[0] = blocks();
    itr_attach();
    itr_detach();
    blocked[1] = blocks();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    itr_attach();
    blocked[2] = blocks();
    itr_detach();
    blocked[3] = blocks();
    itr_attach();
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    itr_detach();
    blocked[4] = blocks();
}

static void mask_after_detaching(void **state) {
    (void)state;
    int blocked[5] = {-1, -1, -1, -1, -1};
    const int wanted[5] = {0, 0, 1, 1, 0};
    struct worker w;
    worker_start(&w, false);
    worker_do(&w, attach_and_detach, blocked);
    worker_stop(&w);
    assert_memory_equal(blocked, wanted, sizeof wanted);
}

static const char *path; /* of this program */

/* The signals that libc keeps for itself cannot be asked for: whatever got one of them would be killed. */
static void libcs_own_signals_are_refused(void **state) {
    (void)state;
    for (int sig = 32; sig < SIGRTMIN; sig++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            char number[12] = {(char)('0' + sig / 10), (char)('0' + sig % 10)};
            setenv("INTERRUPTIBLE_SIGNAL", number, 1);
            execl(path, "refused", (char *)NULL); /* not /proc/self/exe: that is valgrind, under it */
            _exit(3);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void sleep_long(void *arg) {
    struct timespec day = {86400, 0};
    *(int *)arg = nanosleep(&day, NULL);
}

/* What the child above does: an interrupt by signal arrives, whatever was asked for. */
static int interrupts_a_sleep(void) {
    struct worker w;
    int result = 0;
    worker_start(&w, true);
    worker_give(&w, sleep_long, &result);
    await_parked(w.thread, "nanosleep");
    int answer = itr_interrupt(w.thread);
    if (answer == ITR_OK) {
        worker_wait(&w);
        worker_stop(&w); /* it uses our stack */
    }
    return answer == ITR_OK && result == -1 ? 0 : 2;
}

int main(int argc, char **argv) {
    if (argc == 1 && strcmp(argv[0], "refused") == 0) {
        return interrupts_a_sleep();
    }
    path = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mask_of_the_handler),
        cmocka_unit_test(handler_that_is_there_once),
        cmocka_unit_test(mask_after_detaching),
        cmocka_unit_test(libcs_own_signals_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
