/* The handle that interrupt() returns: one for each call of it, several of them perhaps on one record. */
#include "core.h"

static PyObject *allocate_lock(void) {
    PyObject *module = PyImport_ImportModule("_thread");
    PyObject *lock = module == NULL ? NULL : PyObject_CallMethod(module, "allocate_lock", NULL);
    Py_XDECREF(module);
    return lock;
}

PyObject *itr_handle_new(itr_record *record) {
    itr_handle *h = PyObject_New(itr_handle, &itr_handle_type);
    if (h == NULL) {
        return NULL;
    }
    Py_INCREF(record);
    h->record = record;
    h->cancelled = false;
    record->holders++;
    return (PyObject *)h;
}

static void handle_dealloc(PyObject *self) {
    Py_XDECREF(((itr_handle *)self)->record);
    PyObject_Free(self);
}

/* The thread of a pending record; a thread that ended without telling Python has discarded it. */
struct itr_thread *itr_record_owner(itr_record *record) {
    if (record->state != ITR_STATE_PENDING || record->target == 0) {
        return NULL;
    }
    struct itr_slot *slot = itr_api->lock_ref(record->target);
    struct itr_thread *t = NULL;
    if (slot != NULL) {
        t = atomic_load_explicit(&slot->user, memory_order_relaxed);
        itr_api->unlock(slot);
    }
    if (t == NULL) {
        itr_record_resolve(record, ITR_STATE_DISCARDED);
    } else {
        itr_async_settle(t);
    }
    return record->state == ITR_STATE_PENDING ? t : NULL;
}

PyObject *itr_handle_state(PyObject *self, void *unused) {
    (void)unused;
    itr_record *record = ((itr_handle *)self)->record;
    struct itr_thread *t = itr_record_owner(record);
    const char *text = "pending";
    switch (record->state) {
    case ITR_STATE_PENDING:
        text =
            t != NULL && !record->taken && (t->user_masks[ITR_MASK_ALL] != 0 || t->user_masks[ITR_MASK_BLOCKING] != 0)
                ? "masked"
                : "pending";
        break;
    case ITR_STATE_DELIVERED:
        text = "delivered";
        break;
    case ITR_STATE_RETRACTED:
        text = "retracted";
        break;
    case ITR_STATE_DISCARDED:
        text = "discarded";
        break;
    }
    return PyUnicode_FromString(text);
}

static PyObject *handle_cancel(PyObject *self, PyObject *unused) {
    (void)unused;
    itr_handle *h = (itr_handle *)self;
    itr_record *record = h->record;
    struct itr_thread *t = itr_record_owner(record);
    if (record->state != ITR_STATE_PENDING || record->taken || h->cancelled) {
        Py_RETURN_FALSE;
    }
    if (record->holders > 1) {
        h->cancelled = true;
        record->holders--;
        Py_RETURN_FALSE; /* others still want it */
    }
    if (t == NULL) { /* not started yet */
        if (!itr_prestart_remove(record)) {
            return NULL;
        }
    } else {
        if (t->armed == record) {
            itr_async_recall(t);
        }
        bool only = PyList_GET_SIZE(t->queue) == 1 && PyList_GET_ITEM(t->queue, 0) == (PyObject *)record;
        /* A call already broken for the head of the queue can be given no other result any more. */
        bool head = PyList_GET_SIZE(t->queue) > 0 && PyList_GET_ITEM(t->queue, 0) == (PyObject *)record;
        if (only && !itr_api->retract(t->ref, ITR_PENDING_PY)) {
            Py_RETURN_FALSE;
        }
        if (head && !only && atomic_load_explicit(&t->slot->committed, memory_order_seq_cst) != 0) {
            Py_RETURN_FALSE;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(t->queue); i++) {
            if (PyList_GET_ITEM(t->queue, i) == (PyObject *)record && PyList_SetSlice(t->queue, i, i + 1, NULL) != 0) {
                return NULL;
            }
        }
    }
    h->cancelled = true;
    record->holders--;
    itr_record_resolve(record, ITR_STATE_RETRACTED);
    Py_RETURN_TRUE;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#define ARMED_SECONDS 0.001 /* nobody says when what is armed gets raised, in the target's very next check */
#define MUTE_SECONDS 0.02   /* nor when a thread ends that was not started under our patches, or one can be started */

/* One wait of at most `timeout` (None: for ever) until the record is resolved; of at most `slice` seconds, unless that
 * is 0. 1: it may be resolved, 0: the time is up, -1.
 * The lock's own acquire validates the time-out, gives up the GIL, and is interruptible. */
static int wait_once(itr_record *record, PyObject *timeout, double slice) {
    PyObject *lock = allocate_lock();
    PyObject *held = lock == NULL ? NULL : PyObject_CallMethod(lock, "acquire", NULL);
    PyObject *waiters = held == NULL ? NULL : PyList_New(0);
    Py_XDECREF(held);
    if (waiters == NULL) {
        Py_XDECREF(lock);
        return -1;
    }
    if (record->waiters == NULL) {
        record->waiters = Py_NewRef(waiters);
    }
    Py_DECREF(waiters);
    /* All this may have given up the GIL. Nothing does between this look and the entry. */
    if (record->state != ITR_STATE_PENDING) {
        Py_DECREF(lock);
        return 1;
    }
    if (PyList_Append(record->waiters, lock) != 0) {
        Py_DECREF(lock);
        return -1;
    }
    PyObject *got = slice > 0            ? PyObject_CallMethod(lock, "acquire", "Od", Py_True, slice)
                    : timeout == Py_None ? PyObject_CallMethod(lock, "acquire", NULL)
                                         : PyObject_CallMethod(lock, "acquire", "OO", Py_True, timeout);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (record->waiters != NULL) {
        Py_ssize_t at = PySequence_Index(record->waiters, lock);
        if (at < 0 || PyList_SetSlice(record->waiters, at, at + 1, NULL) != 0) {
            PyErr_Clear();
        }
    }
    PyErr_Restore(type, value, traceback);
    Py_DECREF(lock);
    int result = got == NULL ? -1 : got == Py_True;
    Py_XDECREF(got);
    return result;
}

static PyObject *handle_wait(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    itr_record *record = ((itr_handle *)self)->record;
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", names, &timeout)) {
        return NULL;
    }
    double deadline = PyFloat_Check(timeout) || PyLong_Check(timeout) ? seconds_now() + PyFloat_AsDouble(timeout) : 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    bool forever = timeout == Py_None;
    bool waited = false;
    Py_INCREF(timeout);
    for (;;) {
        struct itr_thread *t = itr_record_owner(record);
        if (record->state != ITR_STATE_PENDING) {
            Py_DECREF(timeout);
            Py_RETURN_TRUE;
        }
        double slice = t == NULL                                   ? 0
                       : t->armed == record                        ? ARMED_SECONDS
                       : t->tells && itr_api->monitor_error() == 0 ? 0
                                                                   : MUTE_SECONDS;
        if (!forever && (waited || slice > 0)) { /* what is left of the time, of which a slice takes no more */
            double left = deadline - seconds_now();
            if (waited) {
                Py_SETREF(timeout, PyFloat_FromDouble(left > 0 ? left : 0));
            }
            slice = left > slice ? slice : 0;
        }
        int got = timeout == NULL ? -1 : wait_once(record, timeout, slice);
        if (got < 0) {
            Py_XDECREF(timeout);
            return NULL;
        }
        if (got == 0 && slice == 0) {
            itr_record_owner(record);
            Py_DECREF(timeout);
            return PyBool_FromLong(record->state != ITR_STATE_PENDING);
        }
        waited = true;
    }
}

static PyObject *handle_get(PyObject *self, void *which) {
    itr_record *record = ((itr_handle *)self)->record;
    switch ((int)(intptr_t)which) {
    case 0:
        return PyLong_FromUnsignedLongLong(record->id);
    case 1:
        Py_INCREF(record->exc);
        return record->exc;
    case 2:
        Py_INCREF(record->reason);
        return record->reason;
    default:
        return PyLong_FromUnsignedLong(record->source);
    }
}

static PyObject *handle_repr(PyObject *self) {
    PyObject *state = itr_handle_state(self, NULL);
    PyObject *text = state == NULL
                         ? NULL
                         : PyUnicode_FromFormat("<InterruptHandle %llu %U exc=%R>", ((itr_handle *)self)->record->id,
                                                state, ((itr_handle *)self)->record->exc);
    Py_XDECREF(state);
    return text;
}

static PyGetSetDef handle_getset[] = {
    {"state", itr_handle_state, NULL, "pending, masked, delivered, retracted or discarded", NULL},
    {"id", handle_get, NULL, "number of the interrupt; the exception carries it as interrupt_id", (void *)0},
    {"exc", handle_get, NULL, "the exception class or instance", (void *)1},
    {"reason", handle_get, NULL, "what interrupt() was given as reason", (void *)2},
    {"source", handle_get, NULL, "ident of the interrupting thread", (void *)3},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef handle_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))handle_wait, METH_VARARGS | METH_KEYWORDS,
     "wait(timeout=None)\n--\n\nWait until it is delivered, retracted or discarded. False when `timeout` seconds pass "
     "first."},
    {"cancel", handle_cancel, METH_NOARGS,
     "cancel()\n--\n\nTake the interrupt back. True when this took it back; False: too late, or other handles still "
     "want it."},
    {"explain", itr_handle_explain, METH_NOARGS,
     "explain()\n--\n\nWhere the thread is and why the interrupt is not delivered yet."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject itr_handle_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "interruptible_threading._core.Handle",
    .tp_basicsize = sizeof(itr_handle),
    .tp_dealloc = handle_dealloc,
    .tp_repr = handle_repr,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One interrupt, as interrupt() returns it.",
    .tp_getset = handle_getset,
    .tp_methods = handle_methods,
};
