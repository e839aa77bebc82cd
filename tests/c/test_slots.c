/* Whose slot is it? Threads that attach themselves while others attach them, pthread_t's that are reused, forks in the
 * middle of something, libraries that are unloaded. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- attached from both sides ------------------------------------------------------------------------------------ */

static struct {
    _Atomic pid_t tid;
    _Atomic unsigned delay;
    _Atomic bool go, attached, quit;
} meeting;

/* Whoever waits sleeps: one that yields waits for the time slices of all others. A condition variable's wait is not
 * interposed, so it is no park of whoever is attached. */
static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
#define TELL(what, value)                                                                                              \
    do {                                                                                                               \
        pthread_mutex_lock(&told_lock);                                                                                \
        (what) = (value);                                                                                              \
        pthread_cond_broadcast(&told);                                                                                 \
        pthread_mutex_unlock(&told_lock);                                                                              \
    } while (0)
#define AWAIT(what)                                                                                                    \
    do {                                                                                                               \
        pthread_mutex_lock(&told_lock);                                                                                \
        while (!(what)) {                                                                                              \
            pthread_cond_wait(&told, &told_lock);                                                                      \
        }                                                                                                              \
        pthread_mutex_unlock(&told_lock);                                                                              \
    } while (0)

static void pause_for(unsigned steps) {
    for (volatile unsigned i = 0; i < steps; i++) {
    }
}

static void *attaches_itself(void *attaches) {
    TELL(meeting.tid, (pid_t)syscall(SYS_gettid));
    for (int i = 0; !meeting.go; i++) { /* to the instruction: the other one sets it and is off */
        if (i > 10000) {
            sched_yield();
        }
    }
    if (attaches != NULL) {
        pause_for(meeting.delay);
        bool attached = itr_attach() == ITR_OK;
        TELL(meeting.attached, attached);
    }
    AWAIT(meeting.quit);
    return NULL;
}

static pthread_t meet(bool attaches) {
    pthread_t thread;
    meeting.tid = 0;
    meeting.go = meeting.attached = meeting.quit = false;
    assert_int_equal(pthread_create(&thread, NULL, attaches_itself, attaches ? &meeting : NULL), 0);
    AWAIT(meeting.tid != 0);
    return thread;
}

static void part(pthread_t thread) {
    meeting.go = true;
    TELL(meeting.quit, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* Whoever comes first makes the slot, and the other one takes it. */
static void from_both_sides(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    uint64_t seed = stress_seed();
    unsigned stale = 0, not_adopted = 0;
    int64_t since = now_ns();
    (void)state;
    for (unsigned round = 0; stress_goes_on(round, 10000, since); round++) {
        pthread_t thread = meet(true);
        meeting.delay = (unsigned)next_random(&seed) % 400;
        unsigned delay = (unsigned)next_random(&seed) % 400;
        meeting.go = true;
        pause_for(delay);
        itr_ref ref = api->attach_other(thread, meeting.tid);
        AWAIT(meeting.attached);
        struct itr_slot *slot = api->lock_ref(ref);
        if (slot == NULL) {
            stale++; /* what is recorded there is lost */
        } else {
            api->unlock(slot);
        }
        slot = api->lock_thread(thread);
        assert_non_null(slot);
        not_adopted += !slot->adopted; /* nobody would wake it */
        api->unlock(slot);
        part(thread);
    }
    assert_int_equal(stale, 0);
    assert_int_equal(not_adopted, 0);
}

/* A dead thread's slot is found by both, and goes to the free list once: nobody shares one. */
static void released_once(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    uint64_t seed = stress_seed();
    static char nobody[2]; /* two addresses that are no thread's, attached anew each round */
    unsigned reused = 0;
    int64_t since = now_ns();
    (void)state;
    for (unsigned round = 0; stress_goes_on(round, 10000, since); round++) {
        pthread_t dead = meet(false);
        assert_true(api->attach_other(dead, meeting.tid) != 0);
        part(dead);
        pthread_t thread = meet(true);
        reused += pthread_equal(dead, thread) != 0;
        meeting.delay = (unsigned)next_random(&seed) % 200;
        unsigned delay = (unsigned)next_random(&seed) % 200;
        meeting.go = true;
        pause_for(delay);
        (void)api->attach_other(thread, meeting.tid);
        AWAIT(meeting.attached);
        itr_ref refs[3] = {api->attach_other(thread, meeting.tid),
                           api->attach_other((pthread_t)&nobody[0], (pid_t)(0x40000000u + round)),
                           api->attach_other((pthread_t)&nobody[1], (pid_t)(0x40000000u + round))};
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < i; j++) {
                if (refs[i] >> 32 == refs[j] >> 32) {
                    fail_msg("round %u: two threads were given slot %u", round, (unsigned)(refs[i] >> 32));
                }
            }
        }
        part(thread);
    }
    printf("a pthread_t was reused %u times\n", reused);
}

/* The thread lives and has attached itself: a tid that is not its own is somebody's mistake, and ends nothing. */
static void live_slot_stays(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    (void)state;
    pthread_t thread = meet(true);
    meeting.go = true;
    AWAIT(meeting.attached);
    itr_ref ref = api->attach_other(thread, meeting.tid);
    assert_true(api->attach_other(thread, 0) == ref);
    assert_true(api->attach_other(thread, meeting.tid + 1) == ref);
    assert_int_equal(itr_interrupt(thread), ITR_OK);
    part(thread);
    assert_int_equal(itr_interrupt(thread), -ESRCH);
}

static void left_behind(void *arg) { fail_msg("called with %p", arg); }

/* A break's state that the last thread left behind is not the next one's. */
static void new_life_is_clean(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    static char nobody;
    (void)state;
    itr_ref ref = api->attach_other((pthread_t)&nobody, 1);
    struct itr_slot *slot = api->lock_ref(ref);
    assert_non_null(slot);
    slot->piped = true;
    slot->on_break = left_behind;
    slot->on_break_arg = &nobody;
    slot->break_errno = EAGAIN;
    api->unlock(slot);
    /* Ended, and made anew: from the free list, whose head it is then. */
    assert_true(api->attach_other((pthread_t)&nobody, 2) != ref);
    ref = api->attach_other((pthread_t)&nobody, 3);
    struct itr_slot *again = api->lock_ref(ref);
    assert_ptr_equal(again, slot);
    api->unlock(again);
    assert_false(slot->piped);
    assert_true(slot->on_break == NULL);
    assert_null(slot->on_break_arg);
    assert_int_equal(slot->break_errno, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_both_sides),
        cmocka_unit_test(released_once),
        cmocka_unit_test(live_slot_stays),
        cmocka_unit_test(new_life_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
