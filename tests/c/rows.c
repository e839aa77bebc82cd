#include "rows.h"

#include "libc_types.h"
#include "park.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/syscall.h>
#include <unistd.h>

union any_function function_named(const char *name) {
    union any_function found = {dlsym(RTLD_DEFAULT, name)};
    if (found.data == NULL) {
        fail_msg("%s: not found", name);
    }
    return found;
}

/* ---- ready-made parts -------------------------------------------------------------------------------------------- */

void make_pipe(struct fixture *f) { assert_int_equal(pipe2(f->a, O_CLOEXEC), 0); }

void make_socketpair(struct fixture *f) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->a), 0);
}

void put_byte(struct fixture *f) { assert_int_equal(write(f->a[1], "x", 1), 1); }

bool got_byte(struct fixture *f) {
    bool right = f->result == 1 && f->byte == 'x';
    f->byte = 0;
    return right;
}

static void set_nonblocking(int fd, bool on) {
    int flags = fcntl(fd, F_GETFL);
    assert_int_equal(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

void fill(struct fixture *f) {
    static const char page[4096];
    set_nonblocking(f->a[1], true);
    for (size_t size = sizeof page; size > 0; size = size > 1 ? 1 : 0) {
        ssize_t n = 0;
        while ((n = write(f->a[1], page, size)) > 0) {
            f->filled += (size_t)n;
        }
        assert_int_equal(errno, EAGAIN);
    }
    set_nonblocking(f->a[1], false);
}

void drain(struct fixture *f) {
    char page[4096];
    ssize_t n = 0;
    set_nonblocking(f->a[0], true);
    while ((n = read(f->a[0], page, sizeof page)) > 0) {
        f->drained += (size_t)n;
    }
    assert_int_equal(errno, EAGAIN);
    set_nonblocking(f->a[0], false);
}

bool sent_byte(struct fixture *f) {
    f->done++;
    drain(f);
    return f->result == 1 && f->drained == f->filled + f->done;
}

bool gave_zero(struct fixture *f) { return f->result == 0; }
bool gave_one(struct fixture *f) { return f->result == 1; }

/* ---- running ----------------------------------------------------------------------------------------------------- */

struct run {
    const struct row *row;
    struct fixture f;
    struct worker w;
    _Atomic bool begun; /* the call is all that the worker can be asleep in */
};

static const char *announced(const struct run *r) { return r->row->announced ? r->row->announced : r->row->name; }

static void do_call(void *arg) {
    struct run *r = arg;
    r->f.started = now_ns();
    r->begun = true;
    errno = EDOM; /* a call that does not fail leaves it */
    r->f.result = r->row->call(&r->f);
    r->f.error = errno;
    r->begun = false;
}

static void do_clear(void *arg) { *(int *)arg = itr_clear(); }
static void do_push(void *arg) { *(int *)arg = itr_mask_push(ITR_MASK_ALL); }
static void do_pop(void *arg) { *(int *)arg = itr_mask_pop(ITR_MASK_ALL); }

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fail_msg("%s%s%s: " #condition " (line %d): result %ld, errno %s", r->row->name,                           \
                     r->row->variant ? " " : "", r->row->variant ? r->row->variant : "", __LINE__, r->f.result,        \
                     strerror(r->f.error));                                                                            \
        }                                                                                                              \
    } while (0)

static void ask(struct run *r, void (*job)(void *), int expected) {
    int answer = -1;
    worker_do(&r->w, job, &answer);
    if (answer != expected) {
        fail_msg("%s: answer %d, not %d", r->row->name, answer, expected);
    }
}

/* The call failed because of `error`. */
static void check_failed(const struct run *r, int error) {
    if ((r->row->flags & GIVES_ERROR) != 0) {
        CHECK(r->f.result == error && r->f.error == EDOM);
    } else if ((r->row->flags & GIVES_REST) != 0) {
        CHECK(r->f.result > 0 && (error == EINTR || r->f.error == EDOM));
    } else {
        CHECK(r->f.result == -1 && r->f.error == error);
    }
}

static void check_completed(struct run *r) {
    if ((r->row->flags & ENDS_BY_EINTR) != 0) {
        CHECK(r->f.result == -1 && r->f.error == EINTR);
        return;
    }
    CHECK(r->row->verify(&r->f));
    CHECK(r->f.error == EDOM || (r->row->flags & IGNORES_EINTR) != 0);
}

/* Asleep in the call. One that is not attached does not say so. */
static bool waits(const struct run *r) {
    return r->w.attach ? is_parked(r->w.thread, announced(r)) : r->begun && task_state(r->w.tid) == 'S';
}

static void park(struct run *r) {
    worker_give(&r->w, do_call, r);
    await_parked(r->w.thread, announced(r));
}

static void satisfy(struct run *r) {
    if ((r->row->flags & BY_ITSELF) != 0) {
        r->f.quick = true;
    } else {
        r->row->satisfy(&r->f);
    }
}

static void interrupt(const struct run *r) {
    CHECK(itr_interrupt(r->w.thread) == ITR_OK);
    CHECK(itr_pending(r->w.thread) == 1);
}

static void run_break(struct run *r) {
    if ((r->row->flags & ENTRY_ONLY) == 0) {
        park(r);
        interrupt(r);
        worker_wait(&r->w);
        check_failed(r, ECANCELED);
        worker_do(&r->w, do_call, r); /* and goes on failing */
        check_failed(r, ECANCELED);
        ask(r, do_clear, 1);
        ask(r, do_clear, 0);
        if ((r->row->flags & BY_ITSELF) == 0) {
            park(r); /* nothing was lost: it waits as before, and what it waits for ends it */
            satisfy(r);
            worker_wait(&r->w);
            check_completed(r);
        }
    }
    if ((r->row->flags & NOT_BEFORE) == 0) {
        satisfy(r); /* an interrupt that comes first wins, and takes nothing */
        interrupt(r);
        worker_do(&r->w, do_call, r);
        check_failed(r, ECANCELED);
        ask(r, do_clear, 1);
        worker_do(&r->w, do_call, r);
        check_completed(r);
    }
}

static void run_masked(struct run *r) {
    if ((r->row->flags & (ENTRY_ONLY | BY_ITSELF)) != 0) {
        return;
    }
    ask(r, do_push, ITR_OK);
    park(r);
    interrupt(r);
    for (int64_t until = now_ns() + 2 * MS; now_ns() < until;) {
        CHECK(is_parked(r->w.thread, announced(r)));
        breathe();
    }
    satisfy(r);
    worker_wait(&r->w);
    check_completed(r);
    ask(r, do_pop, ITR_OK);
    worker_do(&r->w, do_call, r);
    check_failed(r, ECANCELED);
    ask(r, do_clear, 1);
}

/* Signals until the call ends, or has gone on behind so many of them. */
static void run_plain(struct run *r) {
    if ((r->row->flags & ENTRY_ONLY) != 0) {
        return;
    }
    int64_t since = now_ns();
    int seen = signals_seen;
    worker_give(&r->w, do_call, r);
    while (worker_busy(&r->w) && ((r->row->flags & IGNORES_EINTR) == 0 || signals_seen < seen + 10)) {
        check_patience(since, r->row->name);
        if (waits(r)) {
            pthread_kill(r->w.thread, SIGUSR2);
        }
        breathe();
    }
    if ((r->row->flags & IGNORES_EINTR) != 0) {
        CHECK(worker_busy(&r->w));
        satisfy(r);
        worker_wait(&r->w);
        check_completed(r);
        return;
    }
    check_failed(r, EINTR);
}

/* Does a handler with SA_RESTART end it? The kernel restarts most calls, but not all. */
static bool run_restarted(struct run *r) {
    worker_give(&r->w, do_call, r);
    int64_t since = now_ns();
    int seen = signals_seen;
    while (worker_busy(&r->w) && signals_seen < seen + 10) {
        check_patience(since, r->row->name);
        if (waits(r)) {
            pthread_kill(r->w.thread, SIGUSR2);
        }
        breathe();
    }
    bool ended = !worker_busy(&r->w);
    if (!ended && (r->row->flags & IGNORES_EINTR) != 0) {
        satisfy(r);
        worker_wait(&r->w);
    } else if (!ended) {
        count_signal(SIGUSR2, 0);
        while (worker_busy(&r->w)) {
            check_patience(since, r->row->name);
            pthread_kill(r->w.thread, SIGUSR2);
            breathe();
        }
        count_signal(SIGUSR2, SA_RESTART);
        check_failed(r, EINTR);
    } else {
        check_failed(r, EINTR);
    }
    return ended;
}

static void tidy_up(struct run *r) {
    if (r->f.undo != NULL) {
        r->f.undo(&r->f);
    }
    for (int i = 0; i < 2; i++) {
        if (r->f.a[i] >= 0) {
            close(r->f.a[i]);
        }
        if (r->f.b[i] >= 0) {
            close(r->f.b[i]);
        }
    }
    if (r->f.child > 0) {
        kill(r->f.child, SIGKILL);
        waitpid(r->f.child, NULL, 0);
    }
    if (r->f.path[0] != '\0') {
        unlink(r->f.path);
    }
}

/* Linux before 5.11, and valgrind, have no epoll_pwait2(). */
static bool is_known_here(const struct row *row) {
    return strcmp(row->name, "epoll_pwait2") != 0 || syscall(SYS_epoll_pwait2, -1, NULL, 0, NULL, NULL) != -1 ||
           errno != ENOSYS;
}

static bool run_row(const struct row *row, enum way way, bool attach) {
    bool ended = false;
    if (!is_known_here(row)) {
        print_message("%s is not known to the kernel\n", row->name);
        return ended;
    }
    struct run *run = malloc(sizeof *run); /* not on the stack: when a test fails, its worker goes on using it */
    assert_non_null(run);
    *run = (struct run){.row = row, .f = {.name = row->name, .a = {-1, -1}, .b = {-1, -1}, .id = -1}};
    worker_start(&run->w, attach);
    run->f.thread = run->w.thread;
    row->setup(&run->f);
    switch (way) {
    case BREAK:
        run_break(run);
        break;
    case MASKED:
        run_masked(run);
        break;
    case RESTARTED:
        ended = run_restarted(run);
        break;
    default:
        run_plain(run);
        break;
    }
    worker_stop(&run->w);
    tidy_up(run);
    free(run);
    return ended;
}

void run_rows(const struct row *rows, size_t n, enum way way) {
    count_signal(SIGUSR2, way == RESTARTED ? SA_RESTART : 0);
    for (size_t i = 0; i < n; i++) {
        if (way == RESTARTED && (rows[i].flags & (ENTRY_ONLY | ENDS_BY_EINTR)) == 0) {
            bool plain = run_row(&rows[i], way, false);
            bool attached = run_row(&rows[i], way, true);
            if (plain != attached) {
                fail_msg("%s: a restarting handler %s it when attached, but %s it when not", rows[i].name,
                         attached ? "ends" : "does not end", plain ? "ends" : "does not end");
            }
        } else if (way != RESTARTED) {
            run_row(&rows[i], way, way != PLAIN);
        }
    }
}

void check_covered(const struct row *rows, size_t n, uint32_t classes) {
    static const struct {
        const char *name;
        uint32_t class_;
    } all[] = {
#define ITR_ROW(ret, name, body, class_, fd, params, args) {#name, class_},
#include "calls.def"
#undef ITR_ROW
    };
    for (size_t i = 0; i < COUNT(all); i++) {
        bool found = (all[i].class_ & classes) == 0;
        for (size_t j = 0; j < n && !found; j++) {
            found = strcmp(rows[j].name, all[i].name) == 0;
        }
        if (!found) {
            fail_msg("%s has no row in this test", all[i].name);
        }
    }
}
