/* fork: the child keeps only its own slot and works, whatever the other threads were in the middle of. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4 };

static void *interrupts_main(void *arg) {
    const pthread_t *target = arg;
    int64_t since = now_ns();
    while (!is_parked(*target, "read") && now_ns() - since < PATIENCE_NS) {
        breathe();
    }
    return itr_interrupt(*target) == ITR_OK ? NULL : arg;
}

/* Not all: a child that takes long leaves all threads asleep when the next one is made. */
static int low_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 64; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

/* What a child has, none of the pool's pipes among them. */
static int fds_of_a_child(void) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        _exit(low_fds());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static _Atomic unsigned slots;
static void count_slot(struct itr_slot *slot, void *arg) {
    (void)slot;
    (void)arg;
    slots++;
}

/* In the child: the calling thread, which forked, and new ones can be interrupted; no pipe of the parent is open. */
static int child_works(int fds, bool attached) {
    pthread_t self = pthread_self();
    pthread_t helper;
    void *failed = NULL;
    int ends[2];
    char byte;
    slots = 0;
    itr_stub_api()->each_slot(count_slot, NULL);
    EXPECT(slots == (attached ? 1u : 0u));
    EXPECT(low_fds() == fds);
    EXPECT(itr_attach() == ITR_OK);
    itr_clear(); /* one that was pending at the fork came along */
    EXPECT(pipe(ends) == 0);
    for (int i = 0; i < 3; i++) {
        EXPECT(pthread_create(&helper, NULL, interrupts_main, &self) == 0);
        EXPECT(read(ends[0], &byte, 1) == -1);
        EXPECT(errno == ECANCELED);
        EXPECT(itr_clear() == 1);
        EXPECT(pthread_join(helper, &failed) == 0 && failed == NULL);
    }
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    EXPECT(poll(&one, 1, 1) == 0);
    return 0;
}

struct fork_job {
    int fds, status, line;
    bool attached;
};

static void forks(void *arg) {
    struct fork_job *j = arg;
    pid_t child = fork();
    if (child == 0) {
        alarm(HANGS_S);
        _exit(child_works(j->fds, j->attached) & 0xff);
    }
    j->status = -1;
    while (child > 0 && waitpid(child, &j->status, 0) == -1 && (errno == ECANCELED || errno == EINTR)) {
        itr_clear();
    }
}

/* ---- the ones that are interrupted meanwhile --------------------------------------------------------------------- */

static _Atomic bool over;
static _Atomic unsigned broken;

static void *waits_often(void *arg) {
    int *ends = arg;
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    char byte;
    itr_attach();
    for (unsigned i = 0; !over; i++) {
        if ((i % 2 == 0 ? poll(&one, 1, 100) : read(ends[0], &byte, 1)) == -1 && errno == ECANCELED) {
            broken += (unsigned)itr_clear();
        }
    }
    return NULL;
}

static void *interrupts_all(void *arg) {
    const pthread_t *threads = arg;
    uint64_t seed = 7;
    while (!over) {
        for (int i = 0; i < THREADS; i++) {
            itr_interrupt(threads[i]);
        }
        spin_ns((int64_t)(next_random(&seed) % 100000));
        breathe();
    }
    return NULL;
}

static void while_interrupting(void **state) {
    static pthread_t threads[THREADS]; /* not on the stack: when the test fails, they go on */
    static struct worker w[3];         /* not attached, attached, attached; they fork at the same time */
    static struct fork_job jobs[3];
    static int ends[2];
    pthread_t waker;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    int fds = fds_of_a_child(); /* what all may have: no pipes of ours */
    over = false;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, waits_often, ends), 0);
    }
    assert_int_equal(pthread_create(&waker, NULL, interrupts_all, threads), 0);
    for (int i = 0; i < 3; i++) {
        worker_start(&w[i], i > 0);
    }
    int64_t start = now_ns();
    for (unsigned round = 0; stress_goes_on(round, 30, start); round++) {
        for (int i = 0; i < 3; i++) {
            jobs[i] = (struct fork_job){.fds = fds, .attached = i > 0};
            worker_give(&w[i], forks, &jobs[i]);
        }
        for (int i = 0; i < 3; i++) {
            worker_wait(&w[i]);
            if (!WIFEXITED(jobs[i].status) || WEXITSTATUS(jobs[i].status) != 0) {
                over = true;
                fail_msg("round %u, child of %d: status %x", round, i, (unsigned)jobs[i].status);
            }
        }
    }
    for (int64_t since = now_ns(); broken == 0; breathe()) {
        check_patience(since, "one that was broken");
    }
    over = true;
    for (int i = 0; i < 3; i++) {
        worker_stop(&w[i]);
    }
    pthread_join(waker, NULL);
    for (int i = 0; i < THREADS; i++) {
        while (pthread_tryjoin_np(threads[i], NULL) != 0) {
            itr_interrupt(threads[i]);
            breathe();
        }
    }
    close(ends[0]);
    close(ends[1]);
}

/* ---- a slot that was watched when its thread ended, and is used again in the child ------------------------------- */

enum { SLOTS = 64 };
static _Atomic int asked[SLOTS];
static _Atomic bool held; /* the monitor, in the parent, until it is about to be stopped */
static int64_t on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries) {
    (void)ref;
    (void)tries;
    asked[slot->index % SLOTS]++;
    for (bool was = held; was && held;) {
        breathe();
    }
    return 0;
}

/* The fork has begun, and waits for the monitor to end. */
static void *lets_go(void *arg) {
    for (int64_t since = now_ns(); task_state(getpid()) != 'S' && now_ns() - since < PATIENCE_NS;) {
        breathe();
    }
    held = false;
    return arg;
}

static void *interrupted_then_ends(void *arg) {
    itr_attach();
    itr_interrupt(pthread_self());
    return arg;
}

static void *waits_to_be_asked(void *arg) {
    int64_t since = now_ns();
    itr_attach();
    uint32_t mine = itr_stub_api()->self()->index % SLOTS;
    asked[mine] = 0;
    itr_interrupt(pthread_self());
    while (asked[mine] == 0) {
        if (now_ns() - since > PATIENCE_NS) {
            return arg;
        }
        breathe();
    }
    return NULL;
}

static int watched_again(void *arg) {
    enum { MANY = 16 };
    pthread_t threads[MANY];
    (void)arg;
    pthread_t release;
    held = true;
    itr_stub_api()->set_hooks(NULL, on_running);
    EXPECT(itr_attach() == ITR_OK && itr_interrupt(pthread_self()) == ITR_OK);
    for (int64_t since = now_ns(); asked[itr_stub_api()->self()->index % SLOTS] == 0; breathe()) {
        EXPECT(now_ns() - since < PATIENCE_NS);
    }
    for (int i = 0; i < MANY; i++) {
        EXPECT(pthread_create(&threads[i], NULL, interrupted_then_ends, NULL) == 0);
    }
    for (int i = 0; i < MANY; i++) {
        pthread_join(threads[i], NULL);
    }
    EXPECT(pthread_create(&release, NULL, lets_go, NULL) == 0);
    pid_t child = fork(); /* the monitor still has them on its list */
    if (child == 0) {
        alarm(HANGS_S);
        itr_detach();
        itr_stub_api()->monitor_allow(); /* with a hook, it waits for that */
        for (int i = 0; i < MANY; i++) {
            void *failed = NULL;
            if (pthread_create(&threads[i], NULL, waits_to_be_asked, &failed) != 0) {
                _exit(1);
            }
        }
        int result = 0;
        for (int i = 0; i < MANY; i++) {
            void *failed = NULL;
            pthread_join(threads[i], &failed);
            result |= failed != NULL ? 2 : 0;
        }
        _exit(result);
    }
    int status = -1;
    pthread_join(release, NULL);
    EXPECT(itr_clear() == 1);
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}

/* ---- amid comings and goings ------------------------------------------------------------------------------------- */

static void *comes_and_goes(void *arg) {
    struct pollfd one = {.fd = *(int *)arg, .events = POLLIN};
    while (!over) {
        itr_attach();
        poll(&one, 1, 1);
        itr_detach();
    }
    return NULL;
}

/* Whatever step of its coming or going a thread was at, the child has neither its pipe nor its slot. */
static int nothing_is_left(void *arg) {
    EXPECT(low_fds() == *(int *)arg);
    slots = 0;
    itr_stub_api()->each_slot(count_slot, NULL);
    EXPECT(slots == 0);
    return 0;
}

static void amid_comings_and_goings(void **state) {
    static pthread_t threads[THREADS];
    static int ends[2];
    (void)state;
    assert_int_equal(pipe(ends), 0);
    int fds = fds_of_a_child();
    over = false;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, comes_and_goes, ends), 0);
    }
    int64_t start = now_ns();
    for (unsigned round = 0; stress_goes_on(round, 2000, start); round++) { /* one in 600 hits something */
        in_child(nothing_is_left, &fds);
    }
    over = true;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    close(ends[0]);
    close(ends[1]);
}

static void slot_reused(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        in_child(watched_again, NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(while_interrupting),
        cmocka_unit_test(amid_comings_and_goings),
        cmocka_unit_test(slot_reused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
