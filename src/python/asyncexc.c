/* Injecting into a thread that runs Python code.
 *
 * From 3.12: a pending call. It runs in whichever thread comes to an eval check first. In the target it looks where it
 * stands and raises there, or declines and asks again at once for the next check; in any other thread it is dropped,
 * and the monitor asks again. The queue needs no GIL.
 *
 * Up to 3.11: a native injector thread looks, with the GIL; apart from the monitor, so that a C extension that holds
 * the GIL stalls no wake-up. It has the thread itself look at each line (trace_look.c), which is where nearly all
 * interrupts of running code come from. Where that cannot be: PyThreadState_SetAsyncExc. The target waits for the GIL
 * inside an eval check, and the exception fires in that very check. */
#include "core.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#define FIRST_ASK_NS 20000
#define MOST_ASK_NS 1000000
#define SLOW_ASK_NS 10000000
#define CALLS_ONLY_NS 50000000
#define NOTED_GONE_NS 500000000
#define LOOKS_AT_ONE_PLACE 500
#define LOOKS_AT_A_TRACER 100000 /* each instruction of what it traces may come to the same frame */

static const char *mode = "off: not set up";
static PyInterpreterState *interpreter;
static _Atomic int stopped; /* finalising: nothing is asked any more */

const char *itr_async_mode(void) { return mode; }

static int64_t ask_delay(uint32_t tries) {
    int64_t delay = FIRST_ASK_NS;
    for (uint32_t i = 0; i < tries && delay < MOST_ASK_NS; i++) {
        delay *= 2;
    }
    return tries > 300 ? SLOW_ASK_NS : delay < MOST_ASK_NS ? delay : MOST_ASK_NS;
}

/* A thread under set_redirect(): told, never raised into. */
static void tell_redirect(struct itr_thread *t) {
    if (t->redirect == NULL || t->user_masks[ITR_MASK_ALL] != 0) {
        return;
    }
    PyObject *told = PyObject_CallObject(t->redirect, NULL);
    if (told == NULL) {
        PyErr_WriteUnraisable(t->redirect);
    }
    Py_XDECREF(told);
}

#if ITR_BY_PENDING_CALL

/* 3.12: int (*)(PyInterpreterState *, int (*)(void *), void *, int mainthreadonly); 3.13+: the last one is flags.
 * Private but exported, so looked up by name. */
typedef int (*add_pending_call)(PyInterpreterState *, int (*)(void *), void *, int);
static add_pending_call add_pending;

static int ask(void *arg);

static bool queue(struct itr_thread *t) {
    if (atomic_exchange_explicit(&t->asked, 1, memory_order_acq_rel) != 0) {
        return true; /* one is in the queue */
    }
    if (add_pending(interpreter, ask, (void *)(uintptr_t)t->ref, 0) == 0) {
        return true;
    }
    atomic_store_explicit(&t->asked, 0, memory_order_release);
    return false; /* full: the monitor comes again */
}

static int ask(void *arg) {
    itr_ref ref = (itr_ref)(uintptr_t)arg;
    struct itr_slot *slot = itr_api->lock_ref(ref);
    if (slot == NULL) {
        return 0;
    }
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_relaxed);
    itr_api->unlock(slot);
    if (t == NULL || t->ref != ref) {
        return 0;
    }
    atomic_store_explicit(&t->asked, 0, memory_order_release);
    PyThreadState *tstate = PyThreadState_Get();
    if (!itr_thread_pending(t) || t->ended) {
        return 0;
    }
    if (t->redirect != NULL) {
        tell_redirect(t);
        return 0;
    }
    if (tstate->thread_id != t->ident) {
        return 0;
    }
    t->tstate = tstate;
    if (itr_api->self() == NULL && itr_thread_current() != t) {
        return 0; /* it has just adopted another slot: its number was reused */
    }
    const void *frame = itr_frame_now(tstate);
    if (frame == t->declined_frame &&
        t->declined_times > (tstate->tracing != 0 ? LOOKS_AT_A_TRACER : LOOKS_AT_ONE_PLACE)) {
        t->declined_frame = NULL; /* this goes nowhere: leave it to the monitor's slower pace */
        return 0;
    }
    if (itr_fit_position(t, tstate) == ITR_FIT) {
        t->declined_frame = NULL;
        if (itr_raise_next(t)) {
            return -1;
        }
        return 0;
    }
    /* A check behind a call: the back edge or entry after it has its own. Inside an exact call or a mask there will be
     * none before it is left, and leaving asks anew. */
    if (atomic_load_explicit(&slot->exact, memory_order_relaxed) == 0 &&
        atomic_load_explicit(&slot->mask, memory_order_relaxed) == ITR_MASK_NONE) {
        t->declined_times = frame == t->declined_frame ? t->declined_times + 1 : 0;
        t->declined_frame = frame;
        queue(t);
    }
    return 0;
}

int64_t itr_async_on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries) {
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_acquire);
    if (t == NULL || t->ref != ref || atomic_load_explicit(&stopped, memory_order_relaxed) != 0) {
        return SLOW_ASK_NS;
    }
    if (atomic_load_explicit(&t->redirected, memory_order_acquire) == 0 &&
        (atomic_load_explicit(&slot->exact, memory_order_relaxed) != 0 ||
         atomic_load_explicit(&slot->mask, memory_order_relaxed) != ITR_MASK_NONE)) {
        return MOST_ASK_NS; /* leaving that state asks */
    }
    queue(t);
    return ask_delay(tries);
}

int itr_async_setup(void) {
    interpreter = PyInterpreterState_Main();
    union {
        void *data;
        add_pending_call function;
    } symbol = {dlsym(RTLD_DEFAULT, "_PyEval_AddPendingCall")};
    add_pending = symbol.function;
    if (add_pending == NULL) {
        mode = "off: this interpreter does not export _PyEval_AddPendingCall";
    } else if (!itr_inject_probe()) {
        add_pending = NULL;
        mode = "off: the interpreter's frames are not laid out as its headers said";
    } else {
        mode = "pending-call";
    }
    return 0;
}

void itr_async_try(struct itr_thread *t) {
    /* The asker holds the GIL and would run the pending call itself at its next check: the monitor's ask, a moment
     * later, finds the target more often. */
    (void)t;
}
void itr_async_recall(struct itr_thread *t) { (void)t; }
void itr_async_settle(struct itr_thread *t) { (void)t; }
void itr_async_before_fork(void) {}
void itr_async_after_fork(void) {}
void itr_async_stop(void) { atomic_store_explicit(&stopped, 1, memory_order_relaxed); }

#else /* up to 3.11 */

/* CPython takes a class and calls it in the target. This private subclass gives the instance that was asked for. */
static PyObject *armed_new(PyObject *self, PyObject *args) {
    (void)args;
    Py_INCREF(self);
    return self;
}

static PyMethodDef armed_new_def = {"__new__", armed_new, METH_VARARGS, NULL};

static PyObject *armed_class(PyObject *instance) {
    PyObject *base = (PyObject *)Py_TYPE(instance);
    PyObject *maker = PyCFunction_New(&armed_new_def, instance);
    PyObject *method = maker == NULL ? NULL : PyStaticMethod_New(maker);
    PyObject *name = PyObject_GetAttrString(base, "__name__");
    PyObject *module = PyObject_GetAttrString(base, "__module__");
    PyObject *qualname = PyObject_GetAttrString(base, "__qualname__");
    PyObject *space = PyDict_New();
    PyObject *cls = NULL;
    if (method != NULL && name != NULL && module != NULL && qualname != NULL && space != NULL &&
        PyDict_SetItemString(space, "__new__", method) == 0 && PyDict_SetItemString(space, "__module__", module) == 0 &&
        PyDict_SetItemString(space, "__qualname__", qualname) == 0) {
        cls = PyObject_CallFunction((PyObject *)Py_TYPE(base), "O(O)O", name, base, space);
    }
    Py_XDECREF(maker);
    Py_XDECREF(method);
    Py_XDECREF(name);
    Py_XDECREF(module);
    Py_XDECREF(qualname);
    Py_XDECREF(space);
    return cls;
}

void itr_async_settle(struct itr_thread *t) {
    if (t->armed == NULL) {
        return;
    }
    PyThreadState *tstate = itr_tstate_of(t->ident);
    if (tstate != NULL && tstate->async_exc == t->armed_type) {
        return; /* not raised yet */
    }
    itr_record *record = t->armed;
    t->armed = NULL;
    Py_CLEAR(t->armed_type);
    itr_record_resolve(record, ITR_STATE_DELIVERED);
    Py_XSETREF(t->last, record);
}

/* With the GIL, so that the target is not raising it just now. */
void itr_async_recall(struct itr_thread *t) {
    itr_async_settle(t);
    if (t->armed == NULL) {
        return;
    }
    /* Still ours and not raised: nobody else's is touched. */
    PyThreadState_SetAsyncExc(t->ident, NULL);
    itr_record *record = t->armed;
    t->armed = NULL;
    Py_CLEAR(t->armed_type);
    if (PyList_Insert(t->queue, 0, (PyObject *)record) == 0) {
        atomic_fetch_or_explicit(&t->slot->pending, ITR_PENDING_PY, memory_order_seq_cst);
        itr_api->kick(t->ref); /* the monitor was done with it */
    }
    Py_DECREF(record);
}

static void arm(struct itr_thread *t, PyThreadState *tstate) {
    if (tstate->async_exc != NULL) {
        return; /* another library's: it goes first */
    }
    PyObject *instance = itr_take(t); /* resolves the record as delivered; it is, in this very check */
    if (instance == NULL) {
        PyErr_Clear();
        return;
    }
    PyObject *cls = armed_class(instance);
    if (cls == NULL) {
        PyErr_Clear();
        cls = (PyObject *)Py_TYPE(instance); /* cannot be subclassed: a fresh instance of it will do */
        Py_INCREF(cls);
    }
    t->armed = t->last;
    t->last = NULL;
    t->armed_type = cls;
    t->armed->state = ITR_STATE_PENDING;
    PyThreadState_SetAsyncExc(t->ident, cls);
    Py_DECREF(instance);
}

/* One look, with the GIL. True: armed, or nothing left to do. */
static bool look(struct itr_thread *t) {
    itr_async_settle(t);
    if (t->armed != NULL || !itr_thread_pending(t) || t->ended) {
        return t->armed == NULL;
    }
    if (t->redirect != NULL) {
        tell_redirect(t);
        return true;
    }
    PyThreadState *tstate = itr_tstate_of(t->ident);
    if (tstate == NULL || tstate == PyThreadState_Get()) {
        return false;
    }
    enum itr_fit fit = itr_fit_position(t, tstate);
    /* Best it looks itself: what is armed shows its private class to __exit__ (up to 3.10), and fires in the next check
     * wherever that is. But there are loops without an event, and somebody may be against tracing. */
    if (!(fit == ITR_FIT && itr_trace_in_vain(t)) && itr_trace_start(t, tstate)) {
        return false;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (fit != ITR_UNFIT_CALL) {
        t->calls_since_ns = 0;
    } else if (t->calls_since_ns == 0 || t->calls_count != t->exact_count) {
        t->calls_since_ns = ns;
        t->calls_count = t->exact_count;
    } else if (ns - t->calls_since_ns > (t->noted_gone ? NOTED_GONE_NS : CALLS_ONLY_NS)) {
        fit =
            ITR_FIT; /* it may not be traced, and was seen at nothing but calls: nothing else can be had (DESIGN 4.3) */
    }
    if (fit == ITR_FIT) {
        t->calls_since_ns = 0;
        itr_trace_stop(t);
        arm(t, tstate);
    }
    return false;
}

void itr_async_try(struct itr_thread *t) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    look(t);
    PyErr_Restore(type, value, traceback);
}

/* ---- the injector thread
 * ------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
#define WORK 256
static itr_ref work[WORK];
static unsigned work_n;
static bool running;
static bool stopping;
static pthread_t injector;

static void look_at(itr_ref ref) {
    struct itr_slot *slot = itr_api->lock_ref(ref);
    struct itr_thread *t = NULL;
    if (slot != NULL) {
        t = atomic_load_explicit(&slot->user, memory_order_relaxed);
        itr_api->unlock(slot);
    }
    if (t != NULL && t->ref == ref) {
        look(t);
        PyErr_Clear();
    }
}

static void *inject(void *unused) {
    (void)unused;
    PyThreadState *own = NULL;
    pthread_mutex_lock(&lock);
    while (!stopping) {
        if (work_n == 0) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 200000000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            if (pthread_cond_timedwait(&wanted, &lock, &until) != 0 && work_n == 0) {
                break;
            }
            continue;
        }
        itr_ref ref = work[--work_n];
        pthread_mutex_unlock(&lock);
        if (own == NULL) {
            own = PyThreadState_New(interpreter);
        }
        if (own != NULL) {
            PyEval_RestoreThread(own);
            look_at(ref);
            PyEval_SaveThread();
        }
        pthread_mutex_lock(&lock);
    }
    bool joined = stopping;
    pthread_mutex_unlock(&lock);
    if (own != NULL) {
        PyEval_RestoreThread(own);
        PyThreadState_Clear(own);
        PyThreadState_DeleteCurrent();
    }
    pthread_mutex_lock(&lock);
    running = false;
    if (!joined && !stopping) {
        pthread_detach(pthread_self());
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

int64_t itr_async_on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries) {
    (void)slot;
    if (atomic_load_explicit(&stopped, memory_order_relaxed) != 0) {
        return SLOW_ASK_NS;
    }
    pthread_mutex_lock(&lock);
    bool queued = work_n == WORK || stopping;
    for (unsigned i = 0; i < work_n && !queued; i++) {
        queued = work[i] == ref;
    }
    if (!queued) {
        work[work_n++] = ref;
    }
    if (!running && !stopping) {
        running = pthread_create(&injector, NULL, inject, NULL) == 0; /* the monitor blocks all signals: inherited */
    }
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
    return ask_delay(tries);
}

/* In the child, before the monitor runs there: an injector that was started behind before_fork() is not here. */
void itr_async_after_fork(void) {
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wanted, NULL);
    running = stopping = false;
    work_n = 0;
}

/* With the GIL; gives it up while it waits. */
void itr_async_before_fork(void) {
    pthread_mutex_lock(&lock);
    bool join = running;
    stopping = running;
    work_n = 0;
    pthread_t thread = injector;
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
    if (join) {
        Py_BEGIN_ALLOW_THREADS pthread_join(thread, NULL);
        Py_END_ALLOW_THREADS
    }
    pthread_mutex_lock(&lock);
    stopping = false;
    pthread_mutex_unlock(&lock);
}

void itr_async_stop(void) {
    atomic_store_explicit(&stopped, 1, memory_order_relaxed);
    itr_async_before_fork();
}

int itr_async_setup(void) {
    interpreter = PyInterpreterState_Main();
    mode = itr_inject_probe() ? "async-exc" : "off: the interpreter's frames are not laid out as its headers said";
    return 0;
}

#endif
