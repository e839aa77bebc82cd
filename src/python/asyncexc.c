/* Injecting into a thread that runs Python code, up to 3.11: a native injector thread looks, with the GIL; apart from
 * the monitor, so that a C extension that holds the GIL stalls no wake-up. It has the thread itself look at each line
 * (trace_look.c), which is where nearly all interrupts of running code come from. Where that cannot be:
 * PyThreadState_SetAsyncExc. The target waits for the GIL inside an eval check, and the exception fires in that very
 * check. */
#include "ask.h"
#include "core.h"

#include <pthread.h>
#include <signal.h>

#if !ITR_BY_PENDING_CALL

#define CALLS_ONLY_NS 50000000
#define NOTED_GONE_NS 500000000

static const char *mode = "off: not set up";
static PyInterpreterState *interpreter;

const char *itr_async_mode(void) { return mode; }

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
    itr_record_delivered(t, record);
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

/* To make the exception, and its class, may run the program's code: a constructor, a collection's callbacks, a
 * finalizer. All of these may give up the GIL, so it is done before the look that counts. */
static void prepare(itr_record *record) {
    struct itr_slot *shielded = itr_shield();
    PyObject *instance = itr_record_instance(record);
    if (instance == NULL) { /* the constructor's own error comes out instead */
        PyObject *type, *traceback;
        PyErr_Fetch(&type, &instance, &traceback);
        PyErr_NormalizeException(&type, &instance, &traceback);
        if (record->instance == NULL) {
            record->instance = Py_NewRef(instance);
        }
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    PyObject *cls = armed_class(record->instance);
    if (cls == NULL) {
        PyErr_Clear();
        cls = Py_NewRef((PyObject *)Py_TYPE(instance)); /* cannot be subclassed: a fresh instance of it will do */
    }
    if (record->armed_type == NULL) {
        record->armed_type = Py_NewRef(cls);
    }
    Py_DECREF(cls);
    Py_DECREF(instance);
    itr_unshield(shielded);
}

static void arm(struct itr_thread *t, PyThreadState *tstate) {
    itr_record *record = itr_pop(t);
    t->armed = record;
    t->armed_type = Py_NewRef(record->armed_type);
    PyThreadState_SetAsyncExc(tstate->thread_id, t->armed_type);
    if (itr_thread_pending(t)) {
        itr_api->kick(t->ref); /* the next one: the monitor may have got used to being in vain */
    }
}

/* Has it been seen at nothing but calls for so long that nothing else can be had? (DESIGN 4.3) */
static bool calls_only(struct itr_thread *t) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (t->calls_since_ns == 0 || t->calls_count != t->exact_count) {
        t->calls_since_ns = ns;
        t->calls_count = t->exact_count;
        return false;
    }
    return ns - t->calls_since_ns > (t->noted_gone ? NOTED_GONE_NS : CALLS_ONLY_NS);
}

/* The thread state in which there is something to look for now, or NULL. */
static PyThreadState *to_look_at(struct itr_thread *t) {
    itr_async_settle(t);
    if (t->armed != NULL || !itr_thread_pending(t) || t->ended || t->redirect != NULL) {
        return NULL;
    }
    PyThreadState *tstate = itr_tstate_of(t->ident);
    return tstate == PyThreadState_Get() ? NULL : tstate;
}

/* Where does it stand? Arm it there. Nothing in here gives up the GIL, so that it stands there still. True: its
 * exception has to be prepared first. */
static bool look_and_arm(struct itr_thread *t, bool in_vain) {
    PyThreadState *tstate = to_look_at(t);
    if (tstate == NULL) {
        return false;
    }
    enum itr_fit fit = itr_fit_position(t, tstate);
    if (fit != ITR_UNFIT_CALL) {
        t->calls_since_ns = 0;
    } else if (!in_vain && calls_only(t)) {
        fit = ITR_FIT;
    }
    const itr_record *record = itr_first(t);
    if (fit != ITR_FIT || tstate->async_exc != NULL /* another library's goes first */ || record == NULL) {
        return false;
    }
    if (record->armed_type == NULL) {
        return true;
    }
    t->calls_since_ns = 0;
    arm(t, tstate);
    return false;
}

/* Has the thread look itself. True: that is all for now; false: somebody is against it. */
static bool have_it_look(struct itr_thread *t, PyThreadState *tstate) {
    if (itr_trace_is_on(t, tstate)) {
        return true;
    }
    if (!itr_trace_allowed()) {
        return false;
    }
    tstate = to_look_at(t); /* much may have happened meanwhile */
    if (tstate != NULL && !itr_trace_is_on(t, tstate)) {
        itr_trace_start(t, tstate);
    }
    return true;
}

/* One look, with the GIL. */
static void look(struct itr_thread *t) {
    if (itr_thread_pending(t) && !t->ended && t->redirect != NULL) {
        itr_tell_redirect(t);
        return;
    }
    PyThreadState *tstate = to_look_at(t);
    /* Best it looks itself: what is armed shows its private class to __exit__ (up to 3.10), and fires in the next check
     * wherever that is. But there are loops without an event, and somebody may be against tracing. */
    bool in_vain = itr_trace_in_vain(t);
    if (tstate == NULL || (!in_vain && have_it_look(t, tstate))) {
        return;
    }
    bool unprepared = true;
    for (int i = 0; i < 2 && unprepared; i++) {
        itr_record *record = i == 0 ? NULL : itr_first(t);
        if (record != NULL) {
            Py_INCREF(record);
            prepare(record);
            Py_DECREF(record);
        }
        bool were = itr_collections_off();
        unprepared = look_and_arm(t, in_vain);
        itr_collections_on(were);
    }
    if (t->armed != NULL) { /* nobody will say when it is raised: wait() has to look by itself from now on */
        itr_record *armed = t->armed;
        Py_INCREF(armed);
        itr_record_wake(armed);
        Py_DECREF(armed);
    }
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
static pthread_cond_t over = PTHREAD_COND_INITIALIZER; /* `running` is false again */
static bool stopped;                                   /* finalising: nothing is asked any more */
static bool running;
static int stopping; /* how many wait for that */
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
    while (stopping == 0) {
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
    (void)slot;
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
    if (!running && stopping == 0) {
        running = pthread_create(&injector, NULL, inject, NULL) == 0; /* the monitor blocks all signals: inherited */
        if (running) {
            pthread_detach(injector);
        }
    }
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
    work_n = 0;
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

void itr_async_before_fork(void) { wait_until_over(false); }

void itr_async_stop(void) { wait_until_over(true); }

/* The injector thread is gone before a fork and at the end: the interpreter waits for nobody here. */
int itr_async_drain(void) { return 0; }
void itr_async_resume(void) {}

int itr_async_setup(void) {
    interpreter = PyInterpreterState_Main();
    if (itr_collections_setup() != 0) {
        return -1;
    }
    mode = itr_inject_probe() ? "async-exc" : "off: the interpreter's frames are not laid out as its headers said";
    return 0;
}

#endif
