/* What else a program does to its threads while they wait or wake others: it cancels them, and it closes what it finds.
 */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ends[2];

static int make(void **state) {
    (void)state;
    return pipe(ends);
}

static void wait_to_read(void *arg) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    *(int *)arg = poll(&one, 1, LONG_MS) == -1 ? errno : 0;
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
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, breaks_then_ends, &broken), 0);
    int64_t since = now_ns();
    while (pthread_tryjoin_np(thread, &result) != 0) {
        check_patience(since, "the thread that is cancelled");
        breathe();
    }
    assert_ptr_equal(result, PTHREAD_CANCELED);
    assert_true(broken);
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

/* ---- descriptors of ours that the program closes ----------------------------------------------------------------- */

struct closed_end {
    int which;
    bool by_select;
    int ms;
    int result, error;
    int64_t took;
    _Atomic bool closed;
};

static void wait_without_an_end(void *arg) {
    struct closed_end *c = arg;
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    struct timeval t = {c->ms / 1000, c->ms % 1000 * 1000};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    poll(&one, 1, 1); /* now it has its pipe */
    syscall(SYS_close, itr_stub_api()->self()->pipe[c->which]);
    c->closed = true;
    int64_t start = now_ns();
    c->result = c->by_select ? select(ends[0] + 1, &set, NULL, NULL, &t) : poll(&one, 1, c->ms);
    c->error = errno;
    c->took = now_ns() - start;
}

/* One that spins is never asleep: it runs, or waits for a processor. So this holds however busy the machine is. */
static void stays_asleep(const struct closed_end *c, int stat) {
    for (int64_t since = now_ns(); !c->closed || task_state_from(stat) != 'S'; breathe()) {
        check_patience(since, "asleep");
    }
    for (int i = 0; i < 100; i++) {
        assert_int_equal(task_state_from(stat), 'S');
        breathe();
    }
}

/* Closed by a system call that nobody sees, and nothing under the number since: the wait is as long as ever, costs
 * nothing, and can be interrupted. */
static void one_end_closed(void **state) {
    int before = open_fds();
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct worker w;
        struct closed_end c = {.which = i / 2, .by_select = i % 2 != 0, .ms = LONG_MS};
        int error = 0;
        worker_start(&w, true);
        int stat = open_task_stat(w.tid);
        assert_true(stat >= 0);
        worker_give(&w, wait_without_an_end, &c);
        stays_asleep(&c, stat);
        close(stat);
        assert_int_equal(itr_interrupt(w.thread), ITR_OK);
        worker_wait(&w);
        assert_int_equal(c.result, -1);
        assert_int_equal(c.error, ECANCELED);
        worker_stop(&w);
        worker_start(&w, true);
        c.ms = 20;
        worker_do(&w, wait_without_an_end, &c);
        assert_int_equal(c.result, 0);
        assert_true(c.took >= c.ms * MS);
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

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelled_waker), cmocka_unit_test(cancelled_target), cmocka_unit_test(unlocking),
        cmocka_unit_test(one_end_closed),  cmocka_unit_test(failing_calls),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, make, NULL);
}
