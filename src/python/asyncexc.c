/* Injecting into a thread that runs Python code, up to 3.11: a native injector thread looks (injector.c). It has the
 * thread itself look at each line (trace_look.c), which is where nearly all interrupts of running code come from. Where
 * that cannot be: PyThreadState_SetAsyncExc. The target waits for the GIL inside an eval check, and the exception fires
 * in that very check. */
#include "ask.h"
#include "core.h"

#if !ITR_BY_PENDING_CALL

#define CALLS_ONLY_NS 50000000
#define NOTED_GONE_NS 500000000

static const char *mode = "off: not set up";

const char *itr_async_mode(void) { return mode; }

/* CPython takes a class and calls it in the target. This private subclass gives the instance that was asked for. */
static PyObject *armed_new(PyObject *self, PyObject *args) {
    struct itr_thread *t = itr_thread_attached();
    if (t != NULL && t->armed != NULL && PyTuple_GET_SIZE(args) > 0 && PyTuple_GET_ITEM(args, 0) == t->armed_type) {
        t->armed_raised = true;
    }
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

/* It is pending again. */
static void disarm(struct itr_thread *t) {
    itr_record *record = t->armed;
    t->armed = NULL;
    Py_CLEAR(t->armed_type);
    if (PyList_Insert(t->queue, 0, (PyObject *)record) == 0) {
        atomic_fetch_or_explicit(&t->slot->pending, ITR_PENDING_PY, memory_order_seq_cst);
        itr_api->kick(t->ref); /* the monitor was done with it */
    }
    Py_DECREF(record);
}

/* There is room for one: has another library put its own in the place of ours? Then nobody has our class, and nobody
 * has made an exception of it (which comes a little later than the raising). */
static bool overwritten(const struct itr_thread *t, const PyThreadState *tstate) {
    if (t->armed_type == (PyObject *)Py_TYPE(t->armed->instance)) { /* no class of our own */
        return tstate != NULL && tstate->async_exc != NULL;
    }
    return !t->armed_raised && Py_REFCNT(t->armed_type) <= t->armed_refs;
}

void itr_async_settle(struct itr_thread *t) {
    if (t->armed == NULL) {
        return;
    }
    const PyThreadState *tstate = itr_tstate_of(t->ident);
    if (tstate != NULL && tstate->async_exc == t->armed_type) {
        return; /* not raised yet */
    }
    if (!t->ended && overwritten(t, tstate)) {
        disarm(t);
        return;
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
    itr_unsignal();
    disarm(t);
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
    t->armed_raised = false;
    t->armed_refs = Py_REFCNT(t->armed_type);
    itr_injector_look_again(t->ref);
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
void itr_async_look(struct itr_thread *t) {
    if (itr_thread_pending(t) && !t->ended && t->redirect != NULL) {
        itr_tell_redirect(t);
        return;
    }
    PyThreadState *tstate = to_look_at(t);
    /* Best it looks itself: what is armed shows its private class to __exit__ (up to 3.10), and fires in the next check
     * wherever that is. But there are loops without an event, and somebody may be against tracing. */
    bool in_vain = tstate != NULL && itr_trace_in_vain(t, tstate);
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
    itr_async_look(t);
    PyErr_Restore(type, value, traceback);
}

int itr_async_setup(void) {
    if (itr_collections_setup() != 0) {
        return -1;
    }
    mode = itr_inject_probe() ? "async-exc" : "off: the interpreter's frames are not laid out as its headers said";
    return 0;
}

#endif
