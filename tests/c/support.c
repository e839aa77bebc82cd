#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

_Atomic int signals_seen;
static bool forked; /* cmocka would go on with the next test, in the child */

/* Fails the test, or ends the child. */
static void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void die(const char *format, ...) {
    char text[256];
    va_list rest;
    va_start(rest, format);
    vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    if (forked) {
        fprintf(stderr, "child: %s\n", text);
        _exit(255);
    }
    fail_msg("%s", text);
}
#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            die("%s:%d: " #condition, __FILE__, __LINE__);                                                             \
        }                                                                                                              \
    } while (0)

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void breathe(void) {
    /* Raw: a test may call this from an attached thread with something pending. */
    struct timespec moment = {0, 50000};
    syscall(SYS_nanosleep, &moment, NULL);
}

void check_patience(int64_t since, const char *what) {
    if (now_ns() - since > PATIENCE_NS) {
        die("waited too long: %s", what);
    }
}

void spin_ns(int64_t ns) {
    int64_t until = now_ns() + ns;
    while (now_ns() < until) {
    }
}

/* ---- the worker -------------------------------------------------------------------------------------------------- */

static void *work(void *arg) {
    struct worker *w = arg;
    w->tid = (pid_t)syscall(SYS_gettid);
    if (w->attach && itr_attach() != ITR_OK) {
        abort();
    }
    pthread_mutex_lock(&w->lock);
    for (;;) {
        w->busy = w->job != NULL;
        pthread_cond_broadcast(&w->cond);
        while (w->job == NULL && !w->quit) {
            pthread_cond_wait(&w->cond, &w->lock);
        }
        if (w->job == NULL) {
            break;
        }
        void (*job)(void *) = w->job;
        pthread_mutex_unlock(&w->lock);
        job(w->arg);
        pthread_mutex_lock(&w->lock);
        w->job = NULL;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void worker_start(struct worker *w, bool attach) {
    pthread_condattr_t attr;
    *w = (struct worker){.attach = attach, .busy = true};
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->cond, &attr);
    pthread_condattr_destroy(&attr);
    NEED(pthread_create(&w->thread, NULL, work, w) == 0);
    worker_wait(w);
}

void worker_give(struct worker *w, void (*job)(void *), void *arg) {
    pthread_mutex_lock(&w->lock);
    NEED(!w->busy);
    w->job = job;
    w->arg = arg;
    w->busy = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

bool worker_busy(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    bool busy = w->busy;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

void worker_wait(struct worker *w) {
    int64_t until = now_ns() + PATIENCE_NS;
    struct timespec deadline = {until / 1000000000, until % 1000000000};
    int error = 0;
    pthread_mutex_lock(&w->lock);
    while (w->busy && error == 0) {
        error = pthread_cond_timedwait(&w->cond, &w->lock, &deadline);
    }
    pthread_mutex_unlock(&w->lock);
    if (error != 0) {
        struct itr_where where = {.call = NULL};
        itr_where(w->thread, &where);
        die("worker hangs: in %s, state %c, pending %d, wake-ups in vain %d", where.call ? where.call : "nothing",
            task_state(w->tid), where.pending, where.wake_fails);
    }
}

void worker_do(struct worker *w, void (*job)(void *), void *arg) {
    worker_give(w, job, arg);
    worker_wait(w);
}

void worker_stop(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
    NEED(pthread_join(w->thread, NULL) == 0);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
}

/* ---- parked? ----------------------------------------------------------------------------------------------------- */

int open_task_stat(pid_t tid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

char task_state_from(int stat) {
    char text[256];
    ssize_t n = pread(stat, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    const char *end = strrchr(text, ')');
    return end != NULL && end[1] == ' ' ? end[2] : '?';
}

char task_state(pid_t tid) {
    int stat = open_task_stat(tid);
    if (stat < 0) {
        return '?';
    }
    char state = task_state_from(stat);
    close(stat);
    return state;
}

bool is_parked(pthread_t thread, const char *call) {
    struct itr_where where;
    return itr_where(thread, &where) == ITR_OK && where.call != NULL && strcmp(where.call, call) == 0 &&
           task_state(where.native_id) == 'S';
}

void await_parked(pthread_t thread, const char *call) {
    int64_t since = now_ns();
    while (!is_parked(thread, call)) {
        check_patience(since, call);
        breathe();
    }
}

/* ---- stress ------------------------------------------------------------------------------------------------------ */

unsigned stress_count(unsigned usual) {
    const char *text = getenv("ITR_TEST_COUNT");
    unsigned long count = text == NULL ? 0 : strtoul(text, NULL, 10);
    return count > 0 ? (unsigned)count : usual;
}

bool stress_goes_on(unsigned done, unsigned usual, int64_t since) {
    bool enough = getenv("ITR_TEST_COUNT") == NULL && done >= usual / 100 && now_ns() - since > 4000 * MS;
    return done < stress_count(usual) && !enough;
}

uint64_t stress_seed(void) {
    const char *text = getenv("ITR_TEST_SEED");
    uint64_t seed = text == NULL ? (uint64_t)now_ns() : strtoull(text, NULL, 10);
    printf("ITR_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed | 1;
}

uint64_t next_random(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 11;
}

/* ---- signals, descriptors, children ------------------------------------------------------------------------------ */

static void counting(int sig) {
    (void)sig;
    atomic_fetch_add(&signals_seen, 1);
}

void count_signal(int sig, int flags) {
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = counting;
    act.sa_flags = flags;
    sigemptyset(&act.sa_mask);
    NEED(sigaction(sig, &act, NULL) == 0);
}

int open_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 4096; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static char scratch[] = "/tmp/itr-test-XXXXXX";
static void remove_scratch(void) { rmdir(scratch); }

void scratch_path(char *path, size_t size) {
    static int serial;
    if (serial == 0) {
        NEED(mkdtemp(scratch) != NULL && atexit(remove_scratch) == 0);
    }
    snprintf(path, size, "%s/%d", scratch, serial++);
}

mqd_t scratch_queue(long messages, long size) {
    struct mq_attr attr = {.mq_maxmsg = messages, .mq_msgsize = size};
    char name[64];
    mqd_t queue;
    do { /* process ids come again, and those of another namespace may be the same */
        snprintf(name, sizeof name, "/itr-test-%d-%llx", getpid(), (unsigned long long)now_ns());
        queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
    } while (queue == (mqd_t)-1 && errno == EEXIST);
    NEED(queue != (mqd_t)-1);
    NEED(mq_unlink(name) == 0);
    return queue;
}

void in_child(int (*body)(void *), void *arg) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        forked = true;
        alarm(HANGS_S);
        int line = body(arg);
        _exit(line == 0 ? 0 : line % 256 == 0 ? 255 : line % 256);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("child: %s %d (line number modulo 256)", WIFEXITED(status) ? "exit" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
}
