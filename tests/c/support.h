/* What the C tests share: a worker thread that does as it is told, waiting for it to be parked, seeds, small helpers.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include "interruptible.h"

#include <mqueue.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include <cmocka.h> /* wants setjmp.h, stdarg.h, stddef.h and stdint.h first */

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define MS INT64_C(1000000) /* in ns */
/* All three are for what hangs. Nothing that works comes near them, on a machine however busy: what is waited for takes
 * milliseconds, and what takes longer is waited for step by step. */
#define PATIENCE_NS (60000 * MS)
#define HANGS_S 500     /* a child that takes so long does; less than CTest's time-out, which says less */
#define LONG_MS 3600000 /* the time-out of a wait that something else is to end: nobody's patience lasts so long */

/* A thread that runs one job after another. It waits for them on a condition variable, which is not interposed, so a
 * pending interrupt does not disturb the waiting. */
struct worker {
    pthread_t thread;
    pid_t tid;
    bool attach;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    void (*job)(void *);
    void *arg;
    bool busy, quit;
};

void worker_start(struct worker *w, bool attach);
void worker_give(struct worker *w, void (*job)(void *), void *arg); /* returns at once */
bool worker_busy(struct worker *w);
void worker_wait(struct worker *w); /* until it has done its job; fails the test when it takes too long */
void worker_do(struct worker *w, void (*job)(void *), void *arg);
void worker_stop(struct worker *w);

/* Wait until `thread` is parked in `call` (announced and asleep in the kernel); fails the test when it never is. */
void await_parked(pthread_t thread, const char *call);
bool is_parked(pthread_t thread, const char *call);
/* One character of /proc/self/task/TID/stat: 'S' when it sleeps. */
char task_state(pid_t tid);
/* The same from the file, for where descriptors may not come and go. */
int open_task_stat(pid_t tid);
char task_state_from(int stat);

int64_t now_ns(void);
/* Let others run for a moment while polling for something. */
void breathe(void);
/* For waits: fails the test with `what` once `since` lies too far back. */
void check_patience(int64_t since, const char *what);

/* Stress: ITR_TEST_COUNT multiplies nothing, it replaces `usual`; ITR_TEST_SEED seeds. */
unsigned stress_count(unsigned usual);
/* Is there another round to do, after `done` of them? As many as stress_count() says; but for rounds that pass
 * something from thread to thread, each turn of which may take a time slice of whoever else is there: on a busy machine
 * they are as many as a few seconds hold. Their number proves nothing, so none is asserted. */
bool stress_goes_on(unsigned done, unsigned usual, int64_t since);
uint64_t stress_seed(void);
uint64_t next_random(uint64_t *state);
void spin_ns(int64_t ns);

/* Installs a handler that counts into signals_seen. */
extern _Atomic int signals_seen;
void count_signal(int sig, int flags);

int open_fds(void);
/* A path in a folder of this run's own: no other run, and nothing that one left behind, has it. */
void scratch_path(char *path, size_t size);
/* A message queue without a name, likewise. */
mqd_t scratch_queue(long messages, long size);
/* Runs `body` in a forked child and fails the test unless it returns 0. The child may not use cmocka. */
void in_child(int (*body)(void *), void *arg);

/* As a thread's result: 0, or the line of the first check that failed. */
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            return __LINE__;                                                                                           \
        }                                                                                                              \
    } while (0)

#endif
