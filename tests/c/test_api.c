/* The C API: what it answers, coalescing, masks, itr_where(). */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void version(void **state) {
    (void)state;
    assert_int_equal(itr_abi_version(), ITR_ABI_VERSION);
    assert_int_equal(itr_active(), 1);
}

static void not_attached(void **state) {
    struct itr_where where;
    (void)state;
    errno = EDOM;
    assert_int_equal(itr_interrupt(pthread_self()), -ESRCH);
    assert_int_equal(itr_pending(pthread_self()), -ESRCH);
    assert_int_equal(itr_where(pthread_self(), &where), -ESRCH);
    assert_int_equal(itr_clear(), 0);
    assert_int_equal(itr_checkpoint(), ITR_OK);
    assert_int_equal(itr_mask_push(ITR_MASK_ALL), -ESRCH);
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), -ESRCH);
    assert_int_equal(itr_mask_push(7), -EINVAL);
    assert_int_equal(itr_detach(), ITR_OK);
    assert_int_equal(errno, EDOM);
}

static void one_thread(void **state) {
    struct itr_where where;
    char byte;
    (void)state;
    errno = EDOM;
    assert_int_equal(itr_attach(), ITR_OK);
    assert_int_equal(itr_attach(), ITR_OK); /* idempotent */
    assert_int_equal(itr_pending(pthread_self()), 0);
    assert_int_equal(itr_interrupt(pthread_self()), ITR_OK);
    assert_int_equal(itr_interrupt(pthread_self()), ITR_COALESCED);
    assert_int_equal(itr_pending(pthread_self()), 1);
    assert_int_equal(itr_checkpoint(), ITR_INTERRUPTED);
    assert_int_equal(itr_checkpoint(), ITR_INTERRUPTED); /* does not consume */
    assert_int_equal(itr_where(pthread_self(), &where), ITR_OK);
    assert_null(where.call);
    assert_int_equal(where.fd, -1);
    assert_int_equal(where.pending, 1);
    assert_int_equal(where.exact, 0);
    assert_int_equal(where.native_id, syscall(SYS_gettid));
    assert_int_equal(errno, EDOM);
    assert_int_equal(itr_clear(), 1); /* both were one */
    assert_int_equal(itr_clear(), 0);
    assert_int_equal(itr_checkpoint(), ITR_OK);
    assert_int_equal(itr_interrupt(pthread_self()), ITR_OK);
    assert_int_equal(itr_detach(), ITR_OK); /* discards */
    assert_int_equal(itr_interrupt(pthread_self()), -ESRCH);
    assert_int_equal(itr_attach(), ITR_OK);
    assert_int_equal(itr_pending(pthread_self()), 0);
    assert_int_equal(itr_detach(), ITR_OK);
    assert_int_equal(read(-1, &byte, 1), -1);
    assert_int_equal(errno, EBADF);
}

static void masks(void **state) {
    int ends[2];
    char byte;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "ab", 2), 2);
    assert_int_equal(itr_attach(), ITR_OK);
    assert_int_equal(itr_mask_push(ITR_MASK_NONE), -EINVAL);
    assert_int_equal(itr_mask_push(3), -EINVAL);
    assert_int_equal(itr_mask_push(-1), -EINVAL);
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), -EINVAL); /* nothing to pop */
    assert_int_equal(itr_mask_pop(ITR_MASK_BLOCKING), -EINVAL);
    assert_int_equal(itr_interrupt(pthread_self()), ITR_OK);
    assert_int_equal(itr_mask_push(ITR_MASK_BLOCKING),
                     ITR_OK); /* this one lets blocking calls and checkpoints through */
    assert_int_equal(itr_checkpoint(), ITR_INTERRUPTED);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    assert_int_equal(errno, ECANCELED);
    assert_int_equal(itr_mask_push(ITR_MASK_ALL), ITR_OK);
    assert_int_equal(itr_mask_push(ITR_MASK_ALL), ITR_OK);
    assert_int_equal(itr_mask_push(ITR_MASK_BLOCKING), ITR_OK); /* the strictest counts */
    assert_int_equal(itr_checkpoint(), ITR_OK);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'a');
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), ITR_OK);
    assert_int_equal(itr_checkpoint(), ITR_OK);
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), ITR_OK);
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), -EINVAL);
    assert_int_equal(itr_checkpoint(), ITR_INTERRUPTED);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    assert_int_equal(errno, ECANCELED);
    assert_int_equal(itr_mask_pop(ITR_MASK_BLOCKING), ITR_OK);
    assert_int_equal(itr_mask_pop(ITR_MASK_BLOCKING), ITR_OK);
    assert_int_equal(itr_clear(), 1);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'b');
    assert_int_equal(itr_mask_push(ITR_MASK_ALL), ITR_OK); /* does not outlive the slot */
    assert_int_equal(itr_detach(), ITR_OK);
    assert_int_equal(itr_attach(), ITR_OK);
    assert_int_equal(itr_mask_pop(ITR_MASK_ALL), -EINVAL);
    assert_int_equal(itr_detach(), ITR_OK);
    close(ends[0]);
    close(ends[1]);
}

struct reader {
    int fd;
    ssize_t result;
    int error;
};
static void do_read(void *arg) {
    struct reader *r = arg;
    char byte;
    r->result = read(r->fd, &byte, 1);
    r->error = errno;
}

static void clear(void *arg) { *(int *)arg = itr_clear(); }

static void where_it_waits(void **state) {
    struct worker w;
    struct reader r;
    struct itr_where where;
    int ends[2];
    (void)state;
    assert_int_equal(pipe(ends), 0);
    r.fd = ends[0];
    worker_start(&w, true);
    for (uint64_t round = 1; round <= 3; round++) {
        int64_t before = now_ns();
        worker_give(&w, do_read, &r);
        await_parked(w.thread, "read");
        assert_int_equal(itr_where(w.thread, &where), ITR_OK);
        assert_int_equal(where.fd, ends[0]);
        assert_int_equal(where.native_id, w.tid);
        assert_int_equal(where.parks, round);
        assert_int_equal(where.mask, ITR_MASK_NONE);
        assert_int_equal(where.pending, 0);
        assert_true(where.since_ns >= before && where.since_ns <= now_ns());
        assert_int_equal(write(ends[1], "x", 1), 1);
        worker_wait(&w);
        assert_int_equal(r.result, 1);
        assert_int_equal(itr_where(w.thread, &where), ITR_OK);
        assert_null(where.call);
    }
    worker_stop(&w);
    close(ends[0]);
    close(ends[1]);
}

/* The call that interrupts a thread ends its wait, and not the monitor's slow repetition: there is no monitor here. */
static void wakes_at_once(void **state) {
    struct worker w;
    struct reader r;
    int ends[2];
    int cleared = 0;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    r.fd = ends[0];
    worker_start(&w, true);
    itr_stub_api()->monitor_stop();
    for (int i = 0; i < 50; i++) {
        worker_give(&w, do_read, &r);
        await_parked(w.thread, "read");
        assert_int_equal(itr_interrupt(w.thread), ITR_OK);
        assert_false(itr_stub_api()->monitor_runs());
        worker_wait(&w);
        assert_int_equal(r.result, -1);
        assert_int_equal(r.error, ECANCELED);
        worker_do(&w, clear, &cleared);
        assert_int_equal(cleared, 1);
    }
    itr_stub_api()->monitor_allow();
    worker_stop(&w);
    close(ends[0]);
    close(ends[1]);
}

static void *ends_at_once(void *arg) {
    if (itr_attach() != ITR_OK) {
        return arg;
    }
    itr_interrupt(pthread_self());
    return NULL;
}

/* A thread that ended is unknown, and one that gets the same pthread_t starts clean. */
static void ended(void **state) {
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        struct worker w;
        void *result = NULL;
        assert_int_equal(pthread_create(&thread, NULL, ends_at_once, state), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_null(result);
        worker_start(&w, i % 2 == 0);
        assert_int_equal(itr_pending(w.thread), i % 2 == 0 ? 0 : -ESRCH);
        worker_stop(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version), cmocka_unit_test(not_attached),   cmocka_unit_test(one_thread),
        cmocka_unit_test(masks),   cmocka_unit_test(where_it_waits), cmocka_unit_test(wakes_at_once),
        cmocka_unit_test(ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
