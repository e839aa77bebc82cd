/* Sleeps, waits on sets of descriptors, and timed semaphores: parked for real, interrupted, and used again. */
#include "rows.h"

#include "libc_types.h"
#include "park.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define QUICK_MS 5
#define MANY 200 /* more descriptors than the shim adds its own to */

static struct timespec in_ms(long ms) { return (struct timespec){ms / 1000, ms % 1000 * 1000000}; }
static struct timespec after_ms(clockid_t clock, long ms) {
    struct timespec t;
    struct timespec add = in_ms(ms);
    clock_gettime(clock, &t);
    t.tv_sec += add.tv_sec + (t.tv_nsec + add.tv_nsec) / 1000000000;
    t.tv_nsec = (t.tv_nsec + add.tv_nsec) % 1000000000;
    return t;
}
static long how_long(const struct fixture *f) { return f->quick ? QUICK_MS : LONG_MS; }
static bool slept(struct fixture *f) { return f->result == 0 && now_ns() - f->started >= QUICK_MS * MS; }
static void none(struct fixture *f) { f->byte = 0; }

/* ---- sleeps ------------------------------------------------------------------------------------------------------ */

static long do_nanosleep(struct fixture *f) {
    struct timespec t = in_ms(how_long(f));
    return nanosleep(&t, NULL);
}
static long do_nanosleep_rem(struct fixture *f) { /* what is left is told, whoever ends it */
    struct timespec t = in_ms(how_long(f));
    struct timespec rem = {-1, -1};
    int result = nanosleep(&t, &rem);
    if (result == -1 && (f->quick ? rem.tv_sec != 0 : rem.tv_sec < LONG_MS / 2000 || rem.tv_sec > LONG_MS / 1000)) {
        errno = EPROTO;
    }
    return result;
}
static long do_clock_nanosleep(struct fixture *f) {
    struct timespec t = in_ms(how_long(f));
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
static long do_clock_nanosleep_abs(struct fixture *f) {
    struct timespec t = after_ms(CLOCK_REALTIME, how_long(f));
    return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}
static long do_usleep(struct fixture *f) { return usleep((useconds_t)how_long(f) * 1000); }
static long do_sleep(struct fixture *f) { return (long)sleep(f->quick ? 1 : LONG_MS / 1000); }

/* ---- poll -------------------------------------------------------------------------------------------------------- */

static struct pollfd *one(struct fixture *f) {
    static struct pollfd set;
    set = (struct pollfd){.fd = f->a[0], .events = POLLIN};
    return &set;
}
static struct pollfd *many(struct fixture *f) {
    static struct pollfd set[MANY];
    for (int i = 0; i < MANY; i++) {
        set[i] = (struct pollfd){.fd = i == 77 ? f->a[0] : -1, .events = POLLIN};
    }
    return set;
}
static long do_poll(struct fixture *f) { return poll(one(f), 1, -1); }
static long do_poll_timed(struct fixture *f) { return poll(one(f), 1, LONG_MS); }
static long do_poll_many(struct fixture *f) { return poll(many(f), MANY, -1); }
static long do_poll_none(struct fixture *f) { return poll(NULL, 0, (int)how_long(f)); }
static long do_poll_chk(struct fixture *f) {
    return CALL(f, int (*)(struct pollfd *, nfds_t, int, size_t))(one(f), 1, -1, sizeof(struct pollfd));
}
static long do_ppoll(struct fixture *f) { return ppoll(one(f), 1, NULL, NULL); }
static long do_ppoll_full(struct fixture *f) { /* blocks every signal: ours must come through */
    sigset_t full;
    struct timespec t = in_ms(LONG_MS);
    sigfillset(&full);
    sigdelset(&full, SIGUSR2);
    return ppoll(one(f), 1, &t, &full);
}
static long do_ppoll_many(struct fixture *f) {
    sigset_t full;
    sigfillset(&full);
    sigdelset(&full, SIGUSR2);
    return ppoll(many(f), MANY, NULL, &full);
}
static long do_ppoll_chk(struct fixture *f) {
    return CALL(f, int (*)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t))(
        one(f), 1, NULL, NULL, sizeof(struct pollfd));
}
static void put_once(struct fixture *f) {
    if (!f->quick) {
        f->quick = true; /* it stays readable */
        put_byte(f);
    }
}

/* ---- select ------------------------------------------------------------------------------------------------------ */

static long do_select(struct fixture *f) {
    fd_set set;
    fd_set others;
    FD_ZERO(&set);
    FD_ZERO(&others);
    FD_SET(f->a[0], &set);
    FD_SET(f->a[0], &others);
    int result = select(f->a[0] + 1, &set, NULL, &others, NULL);
    if (result == 1 && (!FD_ISSET(f->a[0], &set) || FD_ISSET(f->a[0], &others))) {
        return -2;
    }
    return result;
}
static long do_select_timed(struct fixture *f) {
    fd_set set;
    struct timeval t = {LONG_MS / 1000, 0};
    FD_ZERO(&set);
    FD_SET(f->a[0], &set);
    return select(f->a[0] + 1, &set, NULL, NULL, &t);
}
static long do_select_writers(struct fixture *f) { /* a set of ours is needed where the program has none */
    fd_set set;
    FD_ZERO(&set);
    FD_SET(f->a[1], &set);
    int result = select(f->a[1] + 1, NULL, &set, NULL, NULL);
    return result == 1 && !FD_ISSET(f->a[1], &set) ? -2 : result;
}
static long do_select_none(struct fixture *f) {
    struct timeval t = {how_long(f) / 1000, (suseconds_t)(how_long(f) % 1000) * 1000};
    return select(0, NULL, NULL, NULL, &t);
}
static long do_pselect(struct fixture *f) {
    fd_set set;
    sigset_t full;
    struct timespec t = in_ms(LONG_MS);
    FD_ZERO(&set);
    FD_SET(f->a[0], &set);
    sigfillset(&full);
    sigdelset(&full, SIGUSR2);
    return pselect(f->a[0] + 1, &set, NULL, NULL, &t, &full);
}
static long do_pselect_none(struct fixture *f) {
    struct timespec t = in_ms(how_long(f));
    return pselect(0, NULL, NULL, NULL, &t, NULL);
}
static void full_then_room(struct fixture *f) {
    make_pipe(f);
    fill(f);
}

/* ---- epoll ------------------------------------------------------------------------------------------------------- */

static void make_epoll(struct fixture *f) {
    make_pipe(f);
    f->b[0] = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = f->a[0]}};
    assert_int_equal(epoll_ctl(f->b[0], EPOLL_CTL_ADD, f->a[0], &event), 0);
}
static long do_epoll_wait(struct fixture *f) {
    struct epoll_event event;
    return epoll_wait(f->b[0], &event, 1, -1);
}
static long do_epoll_timed(struct fixture *f) {
    struct epoll_event event;
    return epoll_wait(f->b[0], &event, 1, LONG_MS);
}
static long do_epoll_pwait(struct fixture *f) {
    struct epoll_event event;
    sigset_t full;
    sigfillset(&full);
    sigdelset(&full, SIGUSR2);
    return epoll_pwait(f->b[0], &event, 1, -1, &full);
}
static long do_epoll_pwait2(struct fixture *f) {
    struct epoll_event event;
    struct timespec t = in_ms(LONG_MS);
    return epoll_pwait2(f->b[0], &event, 1, &t, NULL);
}

/* ---- semaphores -------------------------------------------------------------------------------------------------- */

static void make_sem(struct fixture *f) { assert_int_equal(sem_init(&f->sem, 0, 0), 0); }
static void post(struct fixture *f) { assert_int_equal(sem_post(&f->sem), 0); }
static bool took_token(struct fixture *f) {
    int value = -1;
    return f->result == 0 && sem_getvalue(&f->sem, &value) == 0 && value == 0;
}
static long do_sem_timedwait(struct fixture *f) {
    struct timespec t = after_ms(CLOCK_REALTIME, LONG_MS);
    return sem_timedwait(&f->sem, &t);
}
static long do_sem_clockwait(struct fixture *f) {
    struct timespec t = after_ms(CLOCK_MONOTONIC, LONG_MS);
    return sem_clockwait(&f->sem, CLOCK_MONOTONIC, &t);
}

#define SLEEP(name, call, flags, variant)                                                                              \
    { name, none, call, NULL, slept, BY_ITSELF | (flags), variant, NULL }
#define READY(name, call, variant)                                                                                     \
    { name, make_pipe, call, put_once, gave_one, 0, variant, NULL }
#define EPOLL(name, call, variant)                                                                                     \
    { name, make_epoll, call, put_once, gave_one, 0, variant, NULL }

static const struct row rows[] = {
    SLEEP("nanosleep", do_nanosleep, 0, NULL),
    SLEEP("nanosleep", do_nanosleep_rem, 0, "with rem"),
    SLEEP("clock_nanosleep", do_clock_nanosleep, GIVES_ERROR, NULL),
    SLEEP("clock_nanosleep", do_clock_nanosleep_abs, GIVES_ERROR, "absolute, CLOCK_REALTIME"),
    SLEEP("usleep", do_usleep, 0, NULL),
    SLEEP("sleep", do_sleep, GIVES_REST, NULL),
    READY("poll", do_poll, NULL),
    READY("poll", do_poll_timed, "timed"),
    READY("poll", do_poll_many, "many"),
    SLEEP("poll", do_poll_none, 0, "of nothing"),
    {"__poll_chk", make_pipe, do_poll_chk, put_once, gave_one, 0, NULL, "poll"},
    {"__ppoll_chk", make_pipe, do_ppoll_chk, put_once, gave_one, 0, NULL, "ppoll"},
    READY("ppoll", do_ppoll, NULL),
    READY("ppoll", do_ppoll_full, "timed, full mask"),
    READY("ppoll", do_ppoll_many, "many, full mask"),
    READY("select", do_select, NULL),
    READY("select", do_select_timed, "timed"),
    {"select", full_then_room, do_select_writers, drain, gave_one, 0, "for writing only", NULL},
    SLEEP("select", do_select_none, 0, "of nothing"),
    READY("pselect", do_pselect, "timed, full mask"),
    SLEEP("pselect", do_pselect_none, 0, "of nothing"),
    EPOLL("epoll_wait", do_epoll_wait, NULL),
    EPOLL("epoll_wait", do_epoll_timed, "timed"),
    EPOLL("epoll_pwait", do_epoll_pwait, "full mask"),
    EPOLL("epoll_pwait2", do_epoll_pwait2, "timed"),
    {"sem_timedwait", make_sem, do_sem_timedwait, post, took_token, 0, NULL, NULL},
    {"sem_clockwait", make_sem, do_sem_clockwait, post, took_token, 0, NULL, NULL},
};
#define RUN(way) run_rows(rows, COUNT(rows), way)
static void broken(void **state) { (void)state, RUN(BREAK); }
static void masked(void **state) { (void)state, RUN(MASKED); }
static void plain(void **state) { (void)state, RUN(PLAIN); }
static void attached_plain(void **state) { (void)state, RUN(ATTACHED_PLAIN); }
static void restarted(void **state) { (void)state, RUN(RESTARTED); }
static void covered(void **state) {
    (void)state;
    check_covered(rows, COUNT(rows), ITR_SLEEP | ITR_POLL | ITR_SELECT | ITR_EPOLL | ITR_SEM);
}

/* ---- an untimed sem_wait ----------------------------------------------------------------------------------------- */

static void wait_sem(void *arg) {
    struct fixture *f = arg;
    f->result = sem_wait(&f->sem);
}

/* Whoever waits in it does not look at the result: it is never failed, and the interrupt stays. */
static void sem_wait_is_left_alone(void **state) {
    (void)state;
    struct worker w;
    struct fixture f = {.result = -1};
    make_sem(&f);
    worker_start(&w, true);
    worker_give(&w, wait_sem, &f);
    await_parked(w.thread, "sem_wait");
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    for (int64_t until = now_ns() + 5 * MS; now_ns() < until;) {
        assert_true(is_parked(w.thread, "sem_wait"));
        breathe();
    }
    post(&f);
    worker_wait(&w);
    assert_int_equal(f.result, 0);
    assert_int_equal(itr_pending(w.thread), 1);
    worker_stop(&w);
}

/* ---- select: what lies beyond ------------------------------------------------------------------------------------ */

struct sets {
    int ends[2], far, n;
    unsigned long read[64]; /* 4,096 bits */
    int result, error;
};

static void set_bit(struct sets *s, int fd) { s->read[fd / 64] |= 1UL << (fd % 64); }
static bool has_bit(const struct sets *s, int fd) { return (s->read[fd / 64] >> (fd % 64) & 1) != 0; }

static void clear(void *unused) {
    (void)unused;
    itr_clear();
}

static void do_sets(void *arg) {
    struct sets *s = arg;
    struct timeval timeout = {0, 1000};
    s->result = select(s->n, (fd_set *)(void *)s->read, NULL, NULL, s->far == 0 ? &timeout : NULL);
    s->error = errno;
}

/* A number that is closed, between those that are asked about and that of our own pipe. */
static void select_ignores_what_lies_beyond(void **state) {
    (void)state;
    struct worker w;
    struct sets s = {.n = 1};
    int last = 0;
    int first = dup(STDOUT_FILENO);
    while (last < 40) {
        last = dup(STDOUT_FILENO);
    }
    worker_start(&w, true);
    worker_do(&w, do_sets, &s); /* makes the pipe, unless there is one left */
    for (int fd = first; fd <= last; fd++) {
        close(fd);
    }
    set_bit(&s, last);
    worker_do(&w, do_sets, &s);
    assert_int_equal(s.result, 0);
    assert_false(has_bit(&s, last));
    worker_stop(&w);
}

/* More than libc has room for in a set: the program brings its own. */
static void select_of_larger_sets(void **state) {
    (void)state;
    struct worker w;
    struct sets s = {.far = 2000, .n = 2001};
    struct rlimit limit;
    struct rlimit wide;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    wide = limit;
    wide.rlim_cur = limit.rlim_cur < 4096 ? 4096 : limit.rlim_cur;
    if (setrlimit(RLIMIT_NOFILE, &wide) != 0) {
        skip();
    }
    assert_int_equal(pipe(s.ends), 0);
    assert_int_equal(dup2(s.ends[0], s.far), s.far);
    worker_start(&w, true);
    set_bit(&s, s.far);
    worker_give(&w, do_sets, &s);
    await_parked(w.thread, "select");
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    worker_wait(&w);
    assert_int_equal(s.result, -1);
    assert_int_equal(s.error, ECANCELED);
    worker_do(&w, clear, NULL);
    memset(s.read, 0, sizeof s.read);
    set_bit(&s, s.far);
    assert_int_equal(write(s.ends[1], "x", 1), 1);
    worker_do(&w, do_sets, &s);
    assert_int_equal(s.result, 1);
    assert_true(has_bit(&s, s.far));
    worker_stop(&w);
    close(s.far);
    close(s.ends[0]);
    close(s.ends[1]);
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(select_ignores_what_lies_beyond), /* the first, while no pipe is left */
        cmocka_unit_test(covered),
        cmocka_unit_test(broken),
        cmocka_unit_test(masked),
        cmocka_unit_test(plain),
        cmocka_unit_test(attached_plain),
        cmocka_unit_test(restarted),
        cmocka_unit_test(sem_wait_is_left_alone),
        cmocka_unit_test(select_of_larger_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
