/* Up to 3.11: the thread that looks where others stand. It needs the GIL for that, and so is not the monitor: a C
 * extension that holds the GIL stalls no wake-up. */
#include "ask.h"
#include "core.h"

#include <pthread.h>
#include <string.h>

#if !ITR_BY_PENDING_CALL

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
#define WORK 256
static itr_ref work[WORK];
static unsigned work_n;
static pthread_cond_t over = PTHREAD_COND_INITIALIZER; /* `running` is false again */
static bool stopped;                                   /* finalising: nothing is asked any more */
static bool running;
static int stopping; /* how many wait for that */
static pthread_t injector;

/* What is armed, to be looked at until it has been raised: nothing is pending then, and nobody else would find out that
 * it was overwritten. */
#define FIRST_AGAIN_NS 1000000
#define MOST_AGAIN_NS 50000000
static itr_ref again[WORK]; /* one more than these is not looked at */
static unsigned again_n;
static int64_t again_ns;

static void *inject(void *unused);

/* The lock is held. */
static void start_injector(void) {
    if (running || stopping != 0 || stopped) {
        return;
    }
    uint64_t before;
    itr_api->signals_block(&before);
    running = pthread_create(&injector, NULL, inject, NULL) == 0;
    itr_api->signals_restore(&before);
    if (running) {
        pthread_detach(injector);
    }
}

void itr_injector_look_again(itr_ref ref) {
    pthread_mutex_lock(&lock);
    bool known = again_n == WORK;
    for (unsigned i = 0; i < again_n && !known; i++) {
        known = again[i] == ref;
    }
    if (!known) {
        again[again_n++] = ref;
    }
    again_ns = FIRST_AGAIN_NS;
    start_injector();
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
}

static struct itr_thread *thread_of_ref(itr_ref ref) {
    struct itr_slot *slot = itr_api->lock_ref(ref);
    struct itr_thread *t = NULL;
    if (slot != NULL) {
        t = atomic_load_explicit(&slot->user, memory_order_relaxed);
        itr_api->unlock(slot);
    }
    return t != NULL && t->ref == ref ? t : NULL;
}

static void look_at(itr_ref ref) {
    struct itr_thread *t = thread_of_ref(ref);
    if (t != NULL) {
        itr_async_look(t);
        PyErr_Clear();
    }
}

/* With the GIL. */
static void look_at_armed(bool recall) {
    itr_ref refs[WORK];
    pthread_mutex_lock(&lock);
    unsigned n = again_n;
    memcpy(refs, again, n * sizeof *refs);
    again_n = 0;
    again_ns = again_ns < MOST_AGAIN_NS ? again_ns * 2 : MOST_AGAIN_NS;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < n; i++) {
        struct itr_thread *t = thread_of_ref(refs[i]);
        if (t == NULL) {
            continue;
        }
        if (recall) {
            itr_async_recall(t);
        } else {
            itr_async_settle(t);
        }
        pthread_mutex_lock(&lock);
        if (t->armed != NULL && again_n < WORK) {
            again[again_n++] = refs[i]; /* one that was armed meanwhile may be there twice */
        }
        pthread_mutex_unlock(&lock);
    }
}

static void *inject(void *unused) {
    (void)unused;
    PyThreadState *own = NULL;
    pthread_mutex_lock(&lock);
    while (stopping == 0) {
        if (work_n == 0) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += again_n == 0 ? 200000000 : again_ns;
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            if (pthread_cond_timedwait(&wanted, &lock, &until) == 0 || work_n != 0) {
                continue;
            }
            if (again_n == 0) {
                break;
            }
        }
        itr_ref ref = 0;
        if (work_n != 0) { /* the oldest: none is passed over for ever */
            ref = work[0];
            memmove(work, work + 1, --work_n * sizeof *work);
        }
        pthread_mutex_unlock(&lock);
        if (own == NULL) {
            own = PyThreadState_New(PyInterpreterState_Main());
        }
        if (own != NULL) {
            PyEval_RestoreThread(own);
            if (ref != 0) {
                look_at(ref);
            } else {
                look_at_armed(false);
            }
            PyEval_SaveThread();
        }
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    if (own != NULL) {
        PyEval_RestoreThread(own);
        PyThreadState_Clear(own);
        PyThreadState_DeleteCurrent();
    }
    pthread_mutex_lock(&lock);
    running = false;
    pthread_cond_broadcast(&over);
    pthread_mutex_unlock(&lock);
    return NULL;
}

bool itr_async_is_injector(unsigned long ident) {
    pthread_mutex_lock(&lock);
    bool answer = running && pthread_equal(injector, (pthread_t)ident) != 0;
    pthread_mutex_unlock(&lock);
    return answer;
}

int64_t itr_async_on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries) {
    const struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_acquire);
    if (t != NULL && atomic_load_explicit(&t->redirected, memory_order_acquire) == 0 &&
        atomic_load_explicit(&slot->mask, memory_order_relaxed) != ITR_MASK_NONE) {
        return itr_ask_delay_closed(tries);
    }
    pthread_mutex_lock(&lock);
    if (stopped) {
        pthread_mutex_unlock(&lock);
        return SLOW_ASK_NS;
    }
    bool queued = work_n == WORK || stopping != 0;
    for (unsigned i = 0; i < work_n && !queued; i++) {
        queued = work[i] == ref;
    }
    if (!queued) {
        work[work_n++] = ref;
    }
    start_injector();
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
    return itr_ask_delay(tries);
}

/* In the child, before the monitor runs there: an injector that was started behind before_fork() is not here. */
void itr_async_after_fork(void) {
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wanted, NULL);
    pthread_cond_init(&over, NULL);
    running = false;
    stopping = 0;
    work_n = again_n = 0;
}

/* With the GIL, which is given up meanwhile: the injector may want it. Nobody wants the GIL with the lock held. */
static void wait_until_over(bool for_good) {
    Py_BEGIN_ALLOW_THREADS pthread_mutex_lock(&lock);
    stopped = stopped || for_good;
    stopping++; /* several threads may fork at a time: none begins a new one before all have seen this one end */
    work_n = 0;
    pthread_cond_signal(&wanted);
    while (running) {
        pthread_cond_wait(&over, &lock);
    }
    stopping--;
    pthread_mutex_unlock(&lock);
    Py_END_ALLOW_THREADS
}

/* What is armed is pending again, and seen to afterwards. */
void itr_async_before_fork(void) {
    wait_until_over(false);
    look_at_armed(true);
}

void itr_async_stop(void) { wait_until_over(true); }

/* The injector thread is gone before a fork and at the end: the interpreter waits for nobody here. */
int itr_async_drain(void) { return 0; }
void itr_async_resume(void) {}

#endif
