/* What we answer in the kernel's place is what the kernel would: the real one, not what valgrind makes of it. */
#include "rows.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* ---- what is read back ------------------------------------------------------------------------------------------- */

static int as_another(void *arg) {
    static const int flags[] = {0, SA_RESTART, SA_NODEFER | SA_ONSTACK, 0x123 | (int)SA_RESETHAND};
    int (*interrupts)(int, int) = (int (*)(int, int))function_named("siginterrupt").plain;
    struct worker w;
    (void)arg;
    worker_start(&w, true); /* ours from here on: SIGURG. The kernel's: SIGWINCH, ignored by default as well. */
    EXPECT(signal(SIGURG, SIG_ERR) == SIG_ERR && errno == EINVAL);
    for (size_t i = 0; i < 3 * COUNT(flags); i++) {
        static const int both[] = {SIGURG, SIGWINCH};
        struct sigaction read_back[2];
        memset(read_back, 0x55, sizeof read_back);
        for (int j = 0; j < 2; j++) {
            struct sigaction action = {.sa_handler = i % 2 ? SIG_IGN : SIG_DFL, .sa_flags = flags[i / 3]};
            sigfillset(&action.sa_mask);
            EXPECT(sigaction(both[j], &action, NULL) == 0);
            if (i % 3 != 0) {
                EXPECT(interrupts(both[j], i % 3 == 1) == 0);
            }
            if (i % 3 == 2) {
                EXPECT(signal(both[j], SIG_IGN) == action.sa_handler);
            }
            EXPECT(sigaction(both[j], NULL, &read_back[j]) == 0);
        }
        EXPECT(read_back[0].sa_handler == read_back[1].sa_handler);
        EXPECT(read_back[0].sa_flags == read_back[1].sa_flags);
        for (int sig = 1; sig < NSIG; sig++) {
            bool own = sig == SIGURG || sig == SIGWINCH;
            EXPECT(own || sigismember(&read_back[0].sa_mask, sig) == sigismember(&read_back[1].sa_mask, sig));
        }
    }
    worker_stop(&w);
    return 0;
}

static void what_is_read_back(void **state) { (void)state, in_child(as_another, NULL); }

/* ---- nothing where the set should be ----------------------------------------------------------------------------- */

static void do_poll_nowhere(void *arg) {
    struct pollfd *volatile nowhere = NULL;
    int *error = arg;
    *error = poll(nowhere, 1, 1000) == -1 ? errno : 0;
}

static void poll_of_nothing_is_a_fault(void **state) {
    (void)state;
    struct worker w;
    int error = 0;
    worker_start(&w, true);
    worker_do(&w, do_poll_nowhere, &error);
    assert_int_equal(error, EFAULT);
    worker_stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_back),
        cmocka_unit_test(poll_of_nothing_is_a_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
