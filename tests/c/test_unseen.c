/* A thread that waits in an exact call where nobody sees it is woken, and comes back through the wrapper. The stub's
 * part, which is to say what exact call it is in, is played here. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct itr_stub_api *api;
static struct worker worker;
static int fds[2];

static atomic_bool suspends;
static bool is_suspended(const struct itr_slot *slot) {
    (void)slot;
    return atomic_load(&suspends);
}

static void enter(struct itr_slot *slot, uint32_t classes) {
    slot->broken = slot->nudged = 0;
    atomic_fetch_add(&slot->exacts, 1);
    atomic_store(&slot->exact, classes | ITR_IN_EXACT);
}

static void leave(struct itr_slot *slot) {
    atomic_store(&slot->exact, 0);
    api->settle(slot);
}

static struct itr_slot *slot_of_worker(void) {
    struct itr_slot *slot = api->lock_thread(worker.thread);
    assert_non_null(slot);
    api->unlock(slot);
    return slot;
}

struct unseen {
    struct itr_slot *slot;
    uint32_t classes;
    int level;        /* a mask, or 0 */
    bool unbreakable; /* as the wrapper says it */
    bool untimed;     /* waits as sem_wait() does */
    bool in_python;   /* the exact call has called Python code */
    atomic_bool over;
    atomic_int interrupted; /* calls that nobody saw and that ended with EINTR */
    int result, error;      /* of the one that came through the wrapper */
    uint32_t broken, nudged;
};

static long wait_unseen(const struct unseen *u) {
    if (u->untimed) {
        static atomic_int word;
        return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    }
    struct pollfd set = {.fd = fds[0], .events = POLLIN};
    const struct timespec at_most = {1000, 0};
    struct timespec left = at_most;
    return syscall(SYS_ppoll, &set, 1L, &left, NULL, 8L);
}

/* As CPython does it: EINTR, so once more; and the slots are bound by now. */
static void comes_back(void *arg) {
    struct unseen *u = arg;
    struct itr_slot *slot = api->self();
    struct pollfd set = {.fd = fds[0], .events = POLLIN};
    enter(slot, u->classes);
    if (wait_unseen(u) == -1 && errno == EINTR) {
        atomic_fetch_add(&u->interrupted, 1);
        u->result = poll(&set, 1, -1);
        u->error = errno;
    }
    u->broken = slot->broken;
    leave(slot);
    u->nudged = slot->nudged;
    itr_clear();
}

static void it_comes_back_and_is_interrupted(void **state) {
    (void)state;
    for (int turn = 0; turn < 3; turn++) {
        struct unseen u = {.classes = ITR_POLL};
        worker_give(&worker, comes_back, &u);
        assert_int_equal(itr_interrupt(worker.thread), ITR_OK);
        worker_wait(&worker);
        assert_int_equal(atomic_load(&u.interrupted), 1);
        assert_int_equal(u.result, 0); /* nothing is ready: the wrapper throws that away */
        assert_int_equal(u.broken, 1);
        assert_int_equal(u.nudged, 1);
    }
}

static void stays(void *arg) {
    struct unseen *u = arg;
    struct itr_slot *slot = api->self();
    if (u->level != 0) {
        api->mask_push(slot, u->level);
    }
    enter(slot, u->classes);
    slot->unbreakable = u->unbreakable;
    u->slot = slot;
    while (!atomic_load(&u->over)) {
        if (wait_unseen(u) == -1 && errno == EINTR) {
            atomic_fetch_add(&u->interrupted, 1);
        }
    }
    slot->unbreakable = false;
    leave(slot);
    if (u->level != 0) {
        api->mask_pop(slot, u->level);
    }
    itr_clear();
}

/* The monitor has looked when it was due to be woken, and again: what it has decided shows in when the next look is. */
static void await_looks(const struct itr_slot *slot) {
    int64_t since = now_ns();
    int64_t last = 0;
    for (int looks = 0; looks < 4;) {
        int64_t still_since = __atomic_load_n(&slot->still_since_ns, __ATOMIC_RELAXED);
        looks += still_since != last;
        last = still_since;
        check_patience(since, "the monitor does not look");
        breathe();
    }
}

static void no_signal(int sig) { (void)sig; }

static void what_must_not_be_woken_is_not(void **state) {
    (void)state;
    struct unseen cases[] = {{.classes = ITR_SEM, .untimed = true},
                             {.classes = ITR_POLL, .untimed = true},
                             {.classes = ITR_POLL, .in_python = true},
                             {.classes = ITR_POLL, .unbreakable = true},
                             {.classes = ITR_POLL, .level = ITR_MASK_ALL}};
    struct sigaction act = {.sa_handler = no_signal};
    assert_int_equal(sigaction(SIGUSR1, &act, NULL), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct unseen *u = &cases[i];
        const struct itr_slot *slot = slot_of_worker();
        atomic_store(&suspends, u->in_python);
        worker_give(&worker, stays, u);
        assert_int_equal(itr_interrupt(worker.thread), ITR_OK);
        await_looks(slot);
        assert_int_equal(atomic_load(&u->interrupted), 0);
        assert_int_equal(atomic_load(&slot->nudges), 0);
        atomic_store(&u->over, true);
        while (worker_busy(&worker)) { /* it may be about to wait when the first one comes */
            pthread_kill(worker.thread, SIGUSR1);
            breathe();
        }
        worker_wait(&worker);
    }
    atomic_store(&suspends, false);
}

/* Never seen, whatever it is told: it is told less and less often, and goes on. */
static void one_that_never_comes_back(void **state) {
    (void)state;
    struct unseen u = {.classes = ITR_POLL};
    const struct itr_slot *slot = slot_of_worker();
    worker_give(&worker, stays, &u);
    assert_int_equal(itr_interrupt(worker.thread), ITR_OK);
    int64_t since = now_ns();
    while (atomic_load(&slot->nudges) < 5) {
        check_patience(since, "it is not told again");
        breathe();
    }
    assert_true(atomic_load(&u.interrupted) <= 6);
    atomic_store(&u.over, true);
    worker_wait(&worker);
}

static int begin(void **state) {
    (void)state;
    api = itr_stub_api();
    api->set_hooks(is_suspended, NULL);
    worker_start(&worker, true);
    return pipe(fds);
}

static int end(void **state) {
    (void)state;
    worker_stop(&worker);
    api->set_hooks(NULL, NULL);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_comes_back_and_is_interrupted),
        cmocka_unit_test(what_must_not_be_woken_is_not),
        cmocka_unit_test(one_that_never_comes_back),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
