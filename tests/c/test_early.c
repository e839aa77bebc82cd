/* Calls that come before our constructor. Functions in .preinit_array run before every shared library's constructors.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    bool ran;
    int opened, polled, slept, attached, interrupted, error;
    ssize_t got, broken;
    mode_t mode;
} early;

static void first_of_all(void) {
    char text[16];
    struct pollfd none = {.fd = -1, .events = POLLIN};
    struct timespec brief = {0, 1000};
    early.ran = true;
    early.opened = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    early.got = read(early.opened, text, sizeof text);
    close(early.opened);
    early.polled = poll(&none, 1, 1);
    early.slept = nanosleep(&brief, NULL);
    early.attached = itr_attach();
    early.interrupted = itr_interrupt(pthread_self());
    early.broken = read(-1, text, 1);
    early.error = errno;
    itr_clear();
    itr_detach();
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(void) = first_of_all;

static void before_our_constructor(void **state) {
    (void)state;
    assert_true(early.ran);
    assert_true(early.opened >= 0);
    assert_true(early.got > 0);
    assert_int_equal(early.polled, 0);
    assert_int_equal(early.slept, 0);
    assert_int_equal(early.attached, ITR_OK);
    assert_int_equal(early.interrupted, ITR_OK);
    assert_int_equal(early.broken, -1);
    assert_int_equal(early.error, ECANCELED);
}

static int forks_on(void *arg) {
    (void)arg;
    pid_t child = fork(); /* the fork handlers are there */
    if (child == 0) {
        _exit(itr_attach() == ITR_OK ? 0 : 1);
    }
    int status = -1;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}
static void and_then(void **state) { (void)state, in_child(forks_on, NULL); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(before_our_constructor), cmocka_unit_test(and_then)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
