/* Interrupt records, and the queue of each thread. The GIL serialises all of it; what other
 * threads may look at without the GIL is the slot's `pending` word. */
#include "core.h"

PyObject *itr_default_exception;
static unsigned long long next_id = 1;

/* ---- records
 * ------------------------------------------------------------------------------------------------------------- */

itr_record *itr_record_new(PyObject *exc, PyObject *reason) {
    itr_record *r = PyObject_New(itr_record, &itr_record_type);
    if (r == NULL) {
        return NULL;
    }
    r->id = next_id++;
    r->exc = exc == NULL || exc == Py_None ? itr_default_exception : exc;
    Py_INCREF(r->exc);
    r->reason = reason == NULL ? Py_None : reason;
    Py_INCREF(r->reason);
    r->source = PyThread_get_thread_ident();
    r->instance = NULL;
    r->state = ITR_STATE_PENDING;
    r->taken = false;
    r->armed_type = NULL;
    r->target = 0;
    r->holders = 0;
    r->waiters = NULL;
    r->thread = r->key = NULL;
    return r;
}

static void record_dealloc(PyObject *self) {
    itr_record *r = (itr_record *)self;
    Py_XDECREF(r->exc);
    Py_XDECREF(r->reason);
    Py_XDECREF(r->instance);
    Py_XDECREF(r->armed_type);
    Py_XDECREF(r->waiters);
    Py_XDECREF(r->thread);
    Py_XDECREF(r->key);
    PyObject_Free(self);
}

PyTypeObject itr_record_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "interruptible_threading._core._Record",
    .tp_basicsize = sizeof(itr_record),
    .tp_dealloc = record_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

void itr_record_wake(itr_record *record) {
    if (record->waiters == NULL) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *waiters = record->waiters;
    record->waiters = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(waiters); i++) {
        PyObject *done = PyObject_CallMethod(PyList_GET_ITEM(waiters, i), "release", NULL);
        if (done == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(done);
    }
    Py_DECREF(waiters);
    PyErr_Restore(type, value, traceback);
}

/* Final unless it is re-recorded. Lets every wait() go. Keeps the current exception. */
void itr_record_resolve(itr_record *record, enum itr_state state) {
    record->state = state;
    if (state != ITR_STATE_DELIVERED) {
        Py_CLEAR(record->thread);
    }
    itr_record_wake(record);
}

void itr_record_delivered(struct itr_thread *t, itr_record *record) {
    /* Remembered first: what comes out of a finalizer at once is to be recorded again. */
    itr_record *forgotten = itr_delivered_add(t, record);
    Py_INCREF(record);
    itr_record_resolve(record, ITR_STATE_DELIVERED);
    Py_DECREF(record);
    itr_delivered_drop(forgotten); /* may run Python code, which may be interrupted */
}

static bool same_exc(PyObject *a, PyObject *b) {
    if (a == b) {
        return true;
    }
    int equal = PyObject_RichCompareBool(a, b, Py_EQ);
    if (equal < 0) {
        PyErr_Clear();
    }
    return equal == 1;
}

/* Whether this compares by a method of its own: the others are equal to nothing but themselves. */
static bool compares(PyObject *exc) { return Py_TYPE(exc)->tp_richcompare != PyBaseObject_Type.tp_richcompare; }

static bool is_pending(const itr_record *record) { return record->state == ITR_STATE_PENDING && !record->taken; }

/* The first that has not been compared yet, which is noted (a reference), or NULL. */
static itr_record *next_uncompared(PyObject *list, PyObject *wanted, PyObject *compared) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        itr_record *record = (itr_record *)PyList_GET_ITEM(list, i);
        bool known = !compares(record->exc) && !compares(wanted);
        for (Py_ssize_t j = 0; j < PyList_GET_SIZE(compared) && !known; j++) {
            known = PyList_GET_ITEM(compared, j) == (PyObject *)record;
        }
        if (!known) {
            Py_INCREF(record);
            if (PyList_Append(compared, (PyObject *)record) == 0) {
                return record;
            }
            Py_DECREF(record);
            PyErr_Clear();
            return NULL;
        }
    }
    return NULL;
}

/* The one with this very exception. */
static itr_record *find_same(PyObject *list, PyObject *wanted) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        itr_record *record = (itr_record *)PyList_GET_ITEM(list, i);
        if (record->exc == wanted && is_pending(record)) {
            return (itr_record *)Py_NewRef((PyObject *)record);
        }
    }
    return NULL;
}

static itr_record *find_equal(PyObject *list, PyObject *wanted) {
    PyObject *compared = PyList_New(0);
    itr_record *found = find_same(list, wanted), *record;
    while (compared != NULL && found == NULL && (record = next_uncompared(list, wanted, compared)) != NULL) {
        /* It may have been delivered, or taken back, while they were compared, and others may have come. */
        if (same_exc(record->exc, wanted) && is_pending(record)) {
            found = record;
        } else {
            Py_DECREF(record);
            found = find_same(list, wanted);
        }
    }
    Py_XDECREF(compared);
    PyErr_Clear();
    return found;
}

itr_record *itr_record_equal(PyObject *list, PyObject *exc) {
    if (PyList_GET_SIZE(list) == 0) {
        return NULL;
    }
    PyObject *wanted = Py_NewRef(exc == NULL || exc == Py_None ? itr_default_exception : exc);
    Py_INCREF(list); /* its thread may end meanwhile, and its keeper get another */
    struct itr_slot *shielded = itr_shield();
    itr_record *found = find_equal(list, wanted);
    itr_unshield(shielded);
    Py_DECREF(list);
    Py_DECREF(wanted);
    return found;
}

int itr_record_enqueue(struct itr_thread *t, itr_record *record) {
    if (PyList_Append(t->queue, (PyObject *)record) != 0) {
        return -1;
    }
    record->target = t->ref;
    return 0;
}

void itr_tell_redirect(struct itr_thread *t) {
    if (t->redirect == NULL || t->user_masks[ITR_MASK_ALL] != 0) {
        return;
    }
    PyObject *redirect = Py_NewRef(t->redirect);
    struct itr_slot *shielded = itr_shield();
    PyObject *told = PyObject_CallObject(redirect, NULL);
    if (told == NULL) {
        PyErr_WriteUnraisable(redirect);
    }
    Py_XDECREF(told);
    itr_unshield(shielded);
    Py_DECREF(redirect);
}

PyObject *itr_interrupt_thread(struct itr_thread *t, PyObject *exc, PyObject *reason) {
    itr_ref ref = t->ref;
    itr_async_settle(t);
    itr_record *pending = itr_record_equal(t->queue, exc);
    if (pending != NULL) {
        PyObject *handle = itr_handle_new(pending);
        Py_DECREF(pending);
        return handle;
    }
    /* The thread may have ended meanwhile, and what belonged to it may be another's. */
    bool ended = t->ended || t->ref != ref;
    itr_record *record = itr_record_new(exc, reason);
    if (record == NULL) {
        return NULL;
    }
    PyObject *handle = itr_handle_new(record);
    if (handle == NULL || (!ended && itr_record_enqueue(t, record) != 0)) {
        Py_XDECREF(handle);
        Py_DECREF(record);
        return NULL;
    }
    if (ended) {
        itr_record_resolve(record, ITR_STATE_DISCARDED);
    } else {
        itr_api->raise(t->ref, ITR_PENDING_PY);
        if (t->redirect != NULL && t->user_masks[ITR_MASK_ALL] == 0) {
            itr_tell_redirect(t);
        } else {
            itr_async_try(t);
        }
    }
    Py_DECREF(record);
    return handle;
}

/* ---- taking and raising
 * --------------------------------------------------------------------------------------------------- */

static void set_attribute(PyObject *instance, const char *name, PyObject *value) {
    if (value == NULL || PyObject_SetAttrString(instance, name, value) != 0) {
        PyErr_Clear(); /* an exception with __slots__ or a read-only attribute is raised without it */
    }
    Py_XDECREF(value);
}

static PyObject *make_instance(itr_record *record) {
    PyObject *instance =
        PyExceptionInstance_Check(record->exc) ? Py_NewRef(record->exc) : PyObject_CallObject(record->exc, NULL);
    if (instance != NULL && !PyExceptionInstance_Check(instance)) {
        PyErr_Format(PyExc_TypeError, "calling %R should have returned an exception, not %R", record->exc, instance);
        Py_CLEAR(instance);
    }
    if (instance != NULL) {
        set_attribute(instance, "reason", Py_NewRef(record->reason));
        set_attribute(instance, "source", PyLong_FromUnsignedLong(record->source));
        set_attribute(instance, "interrupt_id", PyLong_FromUnsignedLongLong(record->id));
    }
    return instance;
}

PyObject *itr_record_instance(itr_record *record) {
    PyObject *instance = NULL;
    if (record->instance == NULL) {
        struct itr_slot *shielded = itr_shield();
        instance = make_instance(record);
        itr_unshield(shielded);
    }
    if (record->instance != NULL) { /* perhaps since then: there is only one */
        Py_XDECREF(instance);
        PyErr_Clear();
        return Py_NewRef(record->instance);
    }
    if (instance != NULL) {
        record->instance = Py_NewRef(instance);
    }
    return instance;
}

/* The first of the queue, without it (a reference). No Python code runs here. */
static itr_record *pop(struct itr_thread *t) {
    itr_record *record = (itr_record *)PyList_GET_ITEM(t->queue, 0);
    Py_INCREF(record);
    if (PyList_SetSlice(t->queue, 0, 1, NULL) != 0) {
        PyErr_Clear();
    }
    if (PyList_GET_SIZE(t->queue) == 0) {
        itr_api->consume(t->slot, ITR_PENDING_PY);
    } else {
        /* What was broken was broken for this one; the next has its own call to break, or to be taken back from. */
        atomic_store_explicit(&t->slot->committed, 0, memory_order_seq_cst);
        atomic_store_explicit(&t->slot->foreign_done, 0, memory_order_relaxed);
    }
    return record;
}

itr_record *itr_first(struct itr_thread *t) {
    if (PyList_GET_SIZE(t->queue) == 0 &&
        (atomic_load_explicit(&t->slot->pending, memory_order_acquire) & ITR_PENDING_API) != 0) {
        itr_record *record = itr_record_new(NULL, NULL);
        if (record == NULL || itr_record_enqueue(t, record) != 0) {
            Py_XDECREF(record);
            return NULL;
        }
        record->source = 0; /* itr_interrupt() does not say who called it */
        Py_DECREF(record);
        /* The one flag before the other is gone: whoever looks meanwhile sees that something is pending. */
        atomic_fetch_or_explicit(&t->slot->pending, ITR_PENDING_PY, memory_order_seq_cst);
        itr_api->consume(t->slot, ITR_PENDING_API);
    }
    if (PyList_GET_SIZE(t->queue) == 0) {
        /* With the GIL the flag says what is in the queue. If it ever did not, no wait could be broken any more. */
        itr_api->consume(t->slot, ITR_PENDING_PY);
        return NULL;
    }
    return (itr_record *)PyList_GET_ITEM(t->queue, 0);
}

itr_record *itr_pop(struct itr_thread *t) { return itr_first(t) == NULL ? NULL : pop(t); }

PyObject *itr_take(struct itr_thread *t) {
    itr_record *record = itr_pop(t);
    if (record == NULL) {
        return NULL;
    }
    /* To make the exception may run the program's code, and give up the GIL. From here on it is too late for cancel().
     */
    record->taken = true;
    PyObject *instance = itr_record_instance(record);
    record->taken = false;
    itr_record_delivered(t, record);
    if (itr_thread_pending(t)) {
        itr_api->kick(t->ref); /* the next one: the monitor may have got used to being in vain */
    }
    return instance;
}

bool itr_raise_next(struct itr_thread *t) {
    PyObject *instance = itr_take(t);
    if (instance != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(instance), instance);
        t->last_exact = instance;
        Py_DECREF(instance);
    }
    return PyErr_Occurred() != NULL;
}

void itr_discard(struct itr_thread *t) {
    itr_api->consume(t->slot, ITR_PENDING_API);
    /* Whoever waits for one may run before the next: what comes meanwhile is none of those. */
    for (Py_ssize_t n = PyList_GET_SIZE(t->queue); n > 0 && PyList_GET_SIZE(t->queue) > 0; n--) {
        itr_record *record = pop(t);
        itr_record_resolve(record, ITR_STATE_DISCARDED);
        Py_DECREF(record);
    }
}

void itr_thread_end(struct itr_thread *t) {
    itr_async_recall(t);
    itr_trace_stop(t);
    t->ended = true;
    itr_discard(t);
    itr_delivered_forget(t);
    t->last_exact = NULL;
    Py_CLEAR(t->redirect);
    atomic_store_explicit(&t->redirected, 0, memory_order_release);
}
