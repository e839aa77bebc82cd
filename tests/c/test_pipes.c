/* The self-pipes live among the program's descriptors. Whatever the program does to those, no byte of ours appears in a
 * file of its own, none of its calls fails because of us, and interrupts go on working. Each test runs in a child. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FDS = 64 };

struct poller {
    int fd;
    bool by_select;
    int timeout, n;
    int result, error, cleared;
};

static void wait_ready(void *arg) {
    struct poller *p = arg;
    struct pollfd set[FDS];
    if (p->by_select) {
        fd_set r;
        struct timeval t = {p->timeout / 1000, p->timeout % 1000 * 1000};
        FD_ZERO(&r);
        FD_SET(p->fd, &r);
        p->result = select(p->fd + 1, &r, NULL, NULL, p->timeout < 0 ? NULL : &t);
    } else {
        for (int i = 0; i < FDS; i++) {
            set[i] = (struct pollfd){.fd = i == 0 ? p->fd : -1, .events = POLLIN};
        }
        p->result = poll(set, (nfds_t)p->n, p->timeout);
    }
    p->error = errno;
    p->cleared = itr_clear();
}

static const char *const names[] = {"poll", "select"};

/* It parks, is interrupted and sees it; then it parks and gets what it waits for. */
static int works(struct worker *w, struct poller *p, int writer) {
    char byte = 0;
    for (int i = 0; i < 2; i++) {
        p->by_select = i == 1;
        worker_give(w, wait_ready, p);
        await_parked(w->thread, names[i]);
        EXPECT(itr_interrupt(w->thread) == ITR_OK);
        worker_wait(w);
        EXPECT(p->result == -1);
        EXPECT(p->error == ECANCELED);
        EXPECT(p->cleared == 1);
        worker_give(w, wait_ready, p);
        await_parked(w->thread, names[i]);
        EXPECT(write(writer, "x", 1) == 1);
        worker_wait(w);
        EXPECT(p->result == 1);
        EXPECT(read(p->fd, &byte, 1) == 1 && byte == 'x');
    }
    return 0;
}

/* The program's files, one under every number that is free: ours must not be among them. */
static int occupy(int files[FDS]) {
    char path[] = "/tmp/itr-pipes-XXXXXX";
    int fd = mkstemp(path);
    EXPECT(fd >= 0);
    unlink(path);
    files[0] = fd;
    for (int i = 1; i < FDS; i++) {
        files[i] = dup(fd);
        EXPECT(files[i] >= 0);
    }
    return 0;
}

enum { BY_RANGE, BY_FROM, BY_NUMBER, BY_DUP2, BY_DUP3, BY_RAW_RANGE, BY_RAW_NUMBER, WAYS };

/* Everything from 3 up except the two. */
static int close_all(int way, int keep0, int keep1, int file) {
    int low = keep0 < keep1 ? keep0 : keep1;
    int high = keep0 < keep1 ? keep1 : keep0;
    if (way == BY_FROM || way == BY_RANGE) { /* the two were moved out of the way, to the lowest numbers */
        EXPECT(low == 3 && high == 4);
        if (way == BY_FROM) {
            closefrom(5);
        } else {
            EXPECT(close_range(5, ~0u, 0) == 0);
        }
        return 0;
    }
    if (way == BY_RAW_RANGE) {
        EXPECT(syscall(SYS_close_range, 5, ~0u, 0) == 0);
        return 0;
    }
    for (int fd = 5; fd < 200; fd++) {
        if (way == BY_DUP2 || way == BY_DUP3) {
            int copy = -1;
            do { /* EBUSY: another thread has just been given the number; Linux only, documented */
                copy = way == BY_DUP2 ? dup2(file, fd) : dup3(file, fd, O_CLOEXEC);
            } while (copy == -1 && errno == EBUSY);
            EXPECT(copy == fd);
        } else if (way == BY_RAW_NUMBER) {
            syscall(SYS_close, fd);
        } else {
            close(fd);
        }
    }
    return 0;
}

struct closing {
    int way;
    bool parked;
    bool by_select;
};

static int closes(void *arg) {
    const struct closing *c = arg;
    struct worker w;
    struct poller p = {.n = 1, .timeout = -1};
    int ends[2];
    int files[FDS];
    int failed;
    closefrom(3);
    EXPECT(pipe(ends) == 0 && ends[0] == 3 && ends[1] == 4);
    p.fd = ends[0];
    worker_start(&w, true);
    failed = works(&w, &p, ends[1]); /* now it has its pipe */
    if (failed) {
        return failed;
    }
    p.by_select = c->by_select;
    if (c->parked) {
        worker_give(&w, wait_ready, &p);
        await_parked(w.thread, names[c->by_select]);
    }
    int null = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    EXPECT(null >= 5);
    EXPECT(dup2(null, 2) == 2);
    failed = close_all(c->way, ends[0], ends[1], 2);
    if (failed) {
        return failed;
    }
    if (c->way != BY_DUP2 && c->way != BY_DUP3) {
        failed = occupy(files);
        if (failed) {
            return failed;
        }
    }
    if (c->parked) {
        EXPECT(itr_interrupt(w.thread) == ITR_OK);
        worker_wait(&w);
        EXPECT(p.result == -1 && p.error == ECANCELED && p.cleared == 1);
    }
    failed = works(&w, &p, ends[1]);
    if (failed) {
        return failed;
    }
    worker_stop(&w);
    /* every file is as empty as it was */
    EXPECT(lseek(2, 0, SEEK_END) == 0);
    for (int fd = 5; fd < 200; fd++) {
        EXPECT(fcntl(fd, F_GETFD) < 0 || lseek(fd, 0, SEEK_END) <= 0);
    }
    return 0;
}

static void program_closes_all(void **state) {
    (void)state;
    for (struct closing c = {.way = 0}; c.way < WAYS; c.way++) {
        for (int i = 0; i < 4; i++) {
            c.parked = i % 2 != 0;
            c.by_select = i / 2 != 0;
            print_message("way %d, %s%s\n", c.way, names[c.by_select], c.parked ? ", parked" : "");
            in_child(closes, &c);
        }
    }
}

/* A raw close of everything and nothing under the numbers: select must not say EBADF because of ours. */
static int raw_close_then_nothing(void *arg) {
    struct worker w;
    struct poller p = {.n = 1, .timeout = -1};
    int ends[2];
    (void)arg;
    closefrom(3);
    EXPECT(pipe(ends) == 0);
    p.fd = ends[0];
    worker_start(&w, true);
    int failed = works(&w, &p, ends[1]);
    EXPECT(syscall(SYS_close_range, 5, ~0u, 0) == 0);
    for (int i = 0; i < 2 && failed == 0; i++) {
        p.by_select = i == 0;
        worker_give(&w, wait_ready, &p);
        await_parked(w.thread, names[p.by_select]);
        EXPECT(write(ends[1], "x", 1) == 1);
        worker_wait(&w);
        EXPECT(p.result == 1);
        char byte;
        EXPECT(read(ends[0], &byte, 1) == 1);
    }
    return failed ? failed : works(&w, &p, ends[1]);
}

/* 0, 1 and 2 are the program's, even while they are closed. */
static int standard_numbers(void *arg) {
    struct worker w;
    struct poller p = {.n = 1, .timeout = -1};
    int ends[2];
    (void)arg;
    EXPECT(pipe(ends) == 0);
    p.fd = ends[0];
    close(0);
    close(1);
    worker_start(&w, true);
    int failed = works(&w, &p, ends[1]);
    EXPECT(failed == 0);
    EXPECT(fcntl(0, F_GETFD) == -1);
    EXPECT(fcntl(1, F_GETFD) == -1);
    EXPECT(open("/dev/null", O_RDONLY) == 0);
    EXPECT(open("/dev/null", O_WRONLY) == 1);
    return 0;
}

/* No descriptor to be had, and a set as large as the limit. */
static int limit(void *arg) {
    struct worker w;
    struct poller p = {.n = 1, .timeout = -1};
    int ends[2];
    bool has_pipe = arg != NULL;
    closefrom(3);
    EXPECT(pipe(ends) == 0);
    p.fd = ends[0];
    worker_start(&w, true);
    int stat = open_task_stat(w.tid); /* there is none to be had for it later */
    EXPECT(stat >= 0);
    int failed = has_pipe ? works(&w, &p, ends[1]) : 0;
    EXPECT(failed == 0);
    struct rlimit few = {has_pipe ? 20 : 6, has_pipe ? 20 : 6};
    EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0);
    while (!has_pipe && dup(ends[0]) >= 0) {
    }
    p.n = has_pipe ? 20 : 1;
    for (int i = 0; i < 2; i++) {
        p.by_select = i == 1;
        worker_give(&w, wait_ready, &p);
        for (struct itr_where where = {.call = NULL}; where.call == NULL || task_state_from(stat) != 'S'; breathe()) {
            EXPECT(itr_where(w.thread, &where) == ITR_OK);
        }
        EXPECT(itr_interrupt(w.thread) == ITR_OK);
        worker_wait(&w);
        EXPECT(p.result == -1);
        EXPECT(p.error == ECANCELED);
        EXPECT(p.cleared == 1);
    }
    return 0;
}

/* A child of vfork shares our memory but not our descriptors: what it closes is not gone here. */
static int closes_in_vfork(void *arg) {
    struct worker w;
    struct poller p = {.n = 1, .timeout = -1};
    int ends[2];
    (void)arg;
    EXPECT(pipe(ends) == 0);
    p.fd = ends[0];
    worker_start(&w, true);
    EXPECT(works(&w, &p, ends[1]) == 0);
    int before = open_fds();
    for (int i = 0; i < 10; i++) {
        pid_t child = (pid_t)syscall(SYS_getpid);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        child = vfork();
#pragma GCC diagnostic pop
        if (child == 0) {
            if (i % 2 == 0) {
                close_range(3, ~0u, 0);
            } else {
                closefrom(3);
            }
            _exit(0);
        }
        EXPECT(child > 0);
        EXPECT(works(&w, &p, ends[1]) == 0);
        EXPECT(open_fds() == before);
    }
    return 0;
}

/* Pipes are pooled and closed, not leaked. */
static int no_leak(void *arg) {
    int before = open_fds();
    int ends[2];
    (void)arg;
    EXPECT(pipe(ends) == 0);
    for (int round = 0; round < 20; round++) {
        struct worker w[8];
        for (int i = 0; i < 8; i++) {
            struct poller p = {.fd = ends[0], .n = 1, .timeout = 0};
            worker_start(&w[i], true);
            p.timeout = 1;
            worker_do(&w[i], wait_ready, &p);
            EXPECT(p.result == 0);
        }
        for (int i = 0; i < 8; i++) {
            worker_stop(&w[i]);
        }
        EXPECT(open_fds() <= before + 2 + 16);
    }
    return 0;
}

static void raw_close(void **state) { (void)state, in_child(raw_close_then_nothing, NULL); }
static void low_numbers(void **state) { (void)state, in_child(standard_numbers, NULL); }
static void no_descriptor(void **state) { (void)state, in_child(limit, NULL); }
static void as_many_as_allowed(void **state) { (void)state, in_child(limit, state); }
static void vfork_child(void **state) { (void)state, in_child(closes_in_vfork, NULL); }
static void pooled(void **state) { (void)state, in_child(no_leak, NULL); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(program_closes_all),
        cmocka_unit_test(raw_close),
        cmocka_unit_test(low_numbers),
        cmocka_unit_test(no_descriptor),
        cmocka_unit_test(as_many_as_allowed),
        cmocka_unit_test(vfork_child),
        cmocka_unit_test(pooled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
