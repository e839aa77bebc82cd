/* Waits of libraries that know nothing of us: what they are told depends on the name of the file they are in. */
#include "api.h"
#include "support.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct library {
    int (*poll)(int fd);
    int (*poll_for)(int fd, int ms);
    int (*poll_retrying)(int fd, unsigned *interruptions);
    int (*sleep)(void);
    int (*read)(int fd);
} unknown, fails, sleeps, polls, namesake, renamed;

static struct worker worker;
static int ends[2];

static void *load(struct library *l, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", TEST_LIBRARIES, name);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fail_msg("%s", dlerror());
    }
    *(void **)(void *)&l->poll = dlsym(handle, "waits_poll");
    *(void **)(void *)&l->poll_for = dlsym(handle, "waits_poll_for");
    *(void **)(void *)&l->poll_retrying = dlsym(handle, "waits_poll_retrying");
    *(void **)(void *)&l->sleep = dlsym(handle, "waits_sleep");
    *(void **)(void *)&l->read = dlsym(handle, "waits_read");
    return handle;
}

static void attach_as_python_does(void *unused) {
    (void)unused;
    itr_stub_api()->attach_self();
}

static int set_up(void **state) {
    (void)state;
    (void)load(&unknown, "libwaits.so");
    (void)load(&fails, "libpq-0123abcd.so.5");
    (void)load(&sleeps, "libsqlite3.so.0");
    (void)load(&polls, "psycopg_c/_psycopg.so");
    (void)load(&namesake, "psycopg2/_psycopg.so");
    (void)load(&renamed, "libpqxx.so");
    worker_start(&worker, false);
    worker_do(&worker, attach_as_python_does, NULL);
    return pipe(ends);
}

static int tear_down(void **state) {
    (void)state;
    worker_stop(&worker);
    close(ends[0]);
    close(ends[1]);
    return 0;
}

struct job {
    const struct library *library;
    int result, again, empty;
    unsigned interruptions;
    bool cleared;
};

static void poll_twice(void *arg) {
    struct job *job = arg;
    job->result = job->library->poll(ends[0]);
    job->again = job->library->poll(ends[0]);
    job->cleared = itr_clear() == 1;
}

static void poll_retrying(void *arg) {
    struct job *job = arg;
    job->result = job->library->poll_retrying(ends[0], &job->interruptions);
    job->cleared = itr_clear() == 1;
}

static void sleep_often(void *arg) {
    struct job *job = arg;
    for (int i = 0; i < 50; i++) {
        job->result |= job->library->sleep();
    }
    job->again = job->library->poll(ends[0]);
    job->cleared = itr_clear() == 1;
}

static uint64_t parks(void) {
    struct itr_where where;
    assert_int_equal(itr_where(worker.thread, &where), ITR_OK);
    return where.parks;
}

static void makes_readable(void) { assert_int_equal(write(ends[1], "x", 1), 1); }
static void makes_empty(void) {
    char c;
    assert_int_equal(read(ends[0], &c, 1), 1);
}

static void park(struct job *job, void (*what)(void *), const char *call) {
    worker_give(&worker, what, job);
    await_parked(worker.thread, call);
}

/* The interrupt ends it. */
static void park_and_break(struct job *job, void (*what)(void *), const char *call) {
    park(job, what, call);
    assert_int_equal(itr_interrupt(worker.thread), ITR_OK);
    worker_wait(&worker);
}

/* It gets what it waits for. */
static void satisfy(void) {
    makes_readable();
    worker_wait(&worker);
    makes_empty();
}

/* Interrupts the worker, which is parked, and waits until it has been told. */
static void interrupt_and_await_told(void) {
    uint64_t before = parks();
    assert_int_equal(itr_interrupt(worker.thread), ITR_OK);
    int64_t since = now_ns();
    while (parks() == before) {
        breathe();
        check_patience(since, "it was not told");
    }
}

static void unknown_library_is_told_once(void **state) {
    (void)state;
    struct job job = {.library = &unknown};
    park(&job, poll_retrying, "poll");
    uint64_t before = parks();
    interrupt_and_await_told();
    await_parked(worker.thread, "poll"); /* again, and undisturbed, though it is still pending */
    assert_int_equal(itr_pending(worker.thread), 1);
    assert_int_equal(parks(), before + 1);
    satisfy();
    assert_int_equal(job.result, 0);
    assert_int_equal(job.interruptions, 1);
    assert_true(job.cleared);
}

static void known_library_fails_until_it_is_cleared(void **state) {
    (void)state;
    struct job job = {.library = &fails};
    park_and_break(&job, poll_twice, "poll");
    assert_int_equal(job.result, ECANCELED);
    assert_int_equal(job.again, ECANCELED);
    assert_true(job.cleared);
    /* And then it waits again. */
    struct job next = {.library = &fails};
    park(&next, poll_retrying, "poll");
    satisfy();
    assert_int_equal(next.result, 0);
    assert_int_equal(next.interruptions, 0);
}

static void read_thrice(void *arg) {
    struct job *job = arg;
    int blocking = job->library->poll(ends[0]); /* interrupted, and so is everything from here on */
    int flags = fcntl(ends[0], F_GETFL);
    fcntl(ends[0], F_SETFL, flags | O_NONBLOCK);
    job->empty = job->library->read(ends[0]);
    makes_readable();
    job->result = job->library->read(ends[0]);
    fcntl(ends[0], F_SETFL, flags);
    job->again = job->library->read(ends[0]);
    job->cleared = itr_clear() == 1 && blocking == ECANCELED;
}

/* libpq, in psycopg 3: it waits in a poll of its caller's, and an answer that is there is read. */
static void transfers_that_cannot_wait_are_made(void **state) {
    (void)state;
    struct job job = {.library = &fails};
    park_and_break(&job, read_thrice, "poll");
    assert_int_equal(job.empty, -EAGAIN);
    assert_int_equal(job.result, 'x');
    assert_int_equal(job.again, -ECANCELED);
    assert_true(job.cleared);
}

static void sleeps_end_early_and_nothing_else_does(void **state) {
    (void)state;
    struct job job = {.library = &sleeps};
    park_and_break(&job, sleep_often, "usleep");
    assert_int_equal(job.result, 0);
    assert_int_equal(job.again, EINTR);
    assert_true(job.cleared);
}

static void poll_for_long(void *arg) {
    struct job *job = arg;
    job->result = job->library->poll_for(ends[0], 900000000);
    job->again = job->library->poll_for(ends[0], 1); /* it was told: this one takes its time */
    job->cleared = itr_clear() == 1;
}

static void timed_polls_expire(void **state) {
    (void)state;
    struct job job = {.library = &polls, .result = -1};
    park_and_break(&job, poll_for_long, "poll");
    assert_int_equal(job.result, 0);
    assert_int_equal(job.again, 0);
    assert_true(job.cleared);
    /* A time that never passes. */
    struct job endless = {.library = &polls};
    park(&endless, poll_retrying, "poll");
    interrupt_and_await_told();
    satisfy();
    assert_int_equal(endless.interruptions, 1);
    assert_true(endless.cleared);
    /* Another package's module of that name. */
    struct job other = {.library = &namesake};
    park_and_break(&other, poll_for_long, "poll");
    assert_int_equal(other.result, EINTR);
}

static void where_names_the_library(void **state) {
    (void)state;
    struct job job = {.library = &fails};
    park(&job, poll_retrying, "poll");
    struct itr_where where;
    assert_int_equal(itr_where(worker.thread, &where), ITR_OK);
    assert_string_equal(where.library, "libpq-0123abcd.so.5");
    satisfy();
}

static void a_longer_name_is_another_library(void **state) {
    (void)state;
    struct job job = {.library = &renamed};
    park(&job, poll_twice, "poll");
    interrupt_and_await_told();
    await_parked(worker.thread, "poll"); /* the second */
    satisfy();
    assert_int_equal(job.result, EINTR);
    assert_true(job.cleared);
}

static void registration_counts_at_once(void **state) {
    (void)state;
    assert_int_equal(itr_register_library("libwaits", ITR_LIBRARY_FAIL), ITR_OK);
    struct job job = {.library = &unknown};
    park_and_break(&job, poll_twice, "poll");
    assert_int_equal(job.result, ECANCELED);
    assert_int_equal(job.again, ECANCELED);
    /* The latest counts, and before what is built in. */
    assert_int_equal(itr_register_library("libwaits", ITR_LIBRARY_ONCE), ITR_OK);
    assert_int_equal(itr_register_library("libpq", ITR_LIBRARY_ONCE), ITR_OK);
    unknown_library_is_told_once(state);
    struct library saved = unknown;
    unknown = fails;
    unknown_library_is_told_once(state);
    unknown = saved;
}

/* The next library is likely to get its addresses. */
static void an_unloaded_library_leaves_no_policy_behind(void **state) {
    (void)state;
    struct library passing;
    struct job job = {.library = &passing};
    assert_int_equal(itr_register_library("libgone", ITR_LIBRARY_FAIL), ITR_OK);
    void *handle = load(&passing, "libgone.so");
    int (*gone)(int) = passing.poll;
    park_and_break(&job, poll_twice, "poll");
    assert_int_equal(job.result, ECANCELED);
    assert_true(job.cleared);
    assert_int_equal(dlclose(handle), 0);
    handle = load(&passing, "libnext.so");
    print_message("%s address\n", passing.poll == gone ? "the same" : "another");
    park(&job, poll_twice, "poll");
    interrupt_and_await_told();
    await_parked(worker.thread, "poll"); /* the second */
    satisfy();
    assert_int_equal(job.result, EINTR);
    assert_int_equal(dlclose(handle), 0);
}

static void bad_registrations(void **state) {
    (void)state;
    char long_name[65];
    memset(long_name, 'x', 64);
    long_name[64] = '\0';
    assert_int_equal(itr_register_library(NULL, ITR_LIBRARY_ONCE), -EINVAL);
    assert_int_equal(itr_register_library("", ITR_LIBRARY_ONCE), -EINVAL);
    assert_int_equal(itr_register_library("lib/pq", ITR_LIBRARY_ONCE), -EINVAL);
    assert_int_equal(itr_register_library(long_name, ITR_LIBRARY_ONCE), -EINVAL);
    assert_int_equal(itr_register_library("libx", -1), -EINVAL);
    assert_int_equal(itr_register_library("libx", 5), -EINVAL);
    char name[16];
    int result = ITR_OK;
    int n = 0;
    for (; result == ITR_OK && n < 100; n++) {
        snprintf(name, sizeof name, "libfull%d", n);
        result = itr_register_library(name, ITR_LIBRARY_ONCE);
    }
    assert_int_equal(result, -ENOSPC);
    assert_int_equal(itr_register_library("libfull0", ITR_LIBRARY_FAIL), ITR_OK); /* it is in already */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_library_is_told_once),
        cmocka_unit_test(known_library_fails_until_it_is_cleared),
        cmocka_unit_test(transfers_that_cannot_wait_are_made),
        cmocka_unit_test(sleeps_end_early_and_nothing_else_does),
        cmocka_unit_test(timed_polls_expire),
        cmocka_unit_test(where_names_the_library),
        cmocka_unit_test(a_longer_name_is_another_library),
        cmocka_unit_test(registration_counts_at_once),
        cmocka_unit_test(an_unloaded_library_leaves_no_policy_behind),
        cmocka_unit_test(bad_registrations),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
