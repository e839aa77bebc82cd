/* Interrupt records, and the queue of each thread. The GIL serialises all of it; what other
 * threads may look at without the GIL is the slot's `pending` word. */
#include "core.h"

#include <structmember.h>

PyObject *itr_default_exception;
static unsigned long long next_id = 1;
static PyObject *prestart_records; /* {id(thread): [records]}; prestart_gone() keeps it clean */
static PyObject *begun;            /* {id(thread): ident}: its runner is at work, though threading may not say so yet */

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

/* Final unless it is re-recorded. Lets every wait() go. Keeps the current exception. */
void itr_record_resolve(itr_record *record, enum itr_state state) {
    record->state = state;
    if (state != ITR_STATE_DELIVERED) {
        Py_CLEAR(record->thread);
    }
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
    PyObject *told = PyObject_CallObject(t->redirect, NULL);
    if (told == NULL) {
        PyErr_WriteUnraisable(t->redirect);
    }
    Py_XDECREF(told);
}

PyObject *itr_interrupt_thread(struct itr_thread *t, PyObject *exc, PyObject *reason) {
    itr_async_settle(t);
    PyObject *wanted = exc == NULL || exc == Py_None ? itr_default_exception : exc;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(t->queue); i++) {
        itr_record *pending = (itr_record *)PyList_GET_ITEM(t->queue, i);
        if (same_exc(pending->exc, wanted)) {
            return itr_handle_new(pending);
        }
    }
    itr_record *record = itr_record_new(exc, reason);
    if (record == NULL) {
        return NULL;
    }
    PyObject *handle = itr_handle_new(record);
    if (handle == NULL || (!t->ended && itr_record_enqueue(t, record) != 0)) {
        Py_XDECREF(handle);
        Py_DECREF(record);
        return NULL;
    }
    if (t->ended) {
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

static PyObject *instance_of(itr_record *record) {
    PyObject *instance = NULL;
    if (PyExceptionInstance_Check(record->exc)) {
        instance = record->exc;
        Py_INCREF(instance);
    } else {
        instance = PyObject_CallObject(record->exc, NULL);
        if (instance != NULL && !PyExceptionInstance_Check(instance)) {
            PyErr_Format(PyExc_TypeError, "calling %R should have returned an exception, not %R", record->exc,
                         instance);
            Py_CLEAR(instance);
        }
    }
    if (instance != NULL) {
        Py_INCREF(record->reason);
        set_attribute(instance, "reason", record->reason);
        set_attribute(instance, "source", PyLong_FromUnsignedLong(record->source));
        set_attribute(instance, "interrupt_id", PyLong_FromUnsignedLongLong(record->id));
        Py_INCREF(instance);
        Py_XSETREF(record->instance, instance);
    }
    return instance;
}

static itr_record *next_record(struct itr_thread *t) {
    if (PyList_GET_SIZE(t->queue) > 0) {
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
    if ((atomic_load_explicit(&t->slot->pending, memory_order_acquire) & ITR_PENDING_API) != 0) {
        itr_api->consume(t->slot, ITR_PENDING_API);
        itr_record *record = itr_record_new(NULL, NULL);
        if (record != NULL) {
            record->source = 0; /* itr_interrupt() does not say who called it */
            record->target = t->ref;
        }
        return record;
    }
    return NULL;
}

PyObject *itr_take(struct itr_thread *t) {
    itr_record *record = next_record(t);
    if (record == NULL) {
        return NULL;
    }
    PyObject *instance = instance_of(record);
    itr_record_resolve(record, ITR_STATE_DELIVERED);
    itr_delivered_add(t, record);
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

void itr_thread_end(struct itr_thread *t) {
    itr_async_recall(t);
    itr_trace_stop(t);
    t->ended = true;
    while (PyList_GET_SIZE(t->queue) > 0) {
        itr_record *record = (itr_record *)PyList_GET_ITEM(t->queue, 0);
        Py_INCREF(record);
        if (PyList_SetSlice(t->queue, 0, 1, NULL) != 0) {
            PyErr_Clear();
        }
        itr_record_resolve(record, ITR_STATE_DISCARDED);
        Py_DECREF(record);
    }
    itr_api->consume(t->slot, ITR_PENDING_PY | ITR_PENDING_API);
    itr_delivered_forget(t);
    t->last_exact = NULL;
    Py_CLEAR(t->redirect);
    atomic_store_explicit(&t->redirected, 0, memory_order_release);
}

/* ---- unstarted threads
 * ------------------------------------------------------------------------------------------------------ */

int itr_prestart_begun(PyObject *thread, const struct itr_thread *t) {
    PyObject *key = PyLong_FromVoidPtr(thread);
    PyObject *ident = t == NULL ? NULL : PyLong_FromUnsignedLong(t->ident);
    int result = -1;
    if (begun == NULL) {
        begun = PyDict_New();
    }
    if (key != NULL && begun != NULL) {
        result = ident != NULL ? PyDict_SetItem(begun, key, ident) : PyDict_DelItem(begun, key);
    }
    Py_XDECREF(ident);
    Py_XDECREF(key);
    return result;
}

/* Between the runner's first step and the moment threading sets _started, the thread looks unstarted from outside. */
static struct itr_thread *already_running(PyObject *key) {
    PyObject *ident = key == NULL || begun == NULL ? NULL : PyDict_GetItem(begun, key);
    return ident == NULL ? NULL : itr_thread_find(PyLong_AsUnsignedLong(ident));
}

/* The thread died without having been started. Its address is not anybody else's before this has returned. */
static PyObject *prestart_gone(PyObject *key, PyObject *ref) {
    (void)ref;
    PyObject *list = PyDict_GetItem(prestart_records, key);
    if (list != NULL) {
        Py_INCREF(list);
        if (PyDict_DelItem(prestart_records, key) != 0) {
            PyErr_Clear();
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            itr_record_resolve((itr_record *)PyList_GET_ITEM(list, i), ITR_STATE_DISCARDED);
        }
        Py_DECREF(list);
    }
    Py_RETURN_NONE;
}

static PyMethodDef prestart_gone_def = {"_gone", prestart_gone, METH_O, NULL};

static int watch(itr_record *record, PyObject *thread) {
    PyObject *callback = PyCFunction_New(&prestart_gone_def, record->key);
    record->thread = callback == NULL ? NULL : PyWeakref_NewRef(thread, callback);
    Py_XDECREF(callback);
    return record->thread == NULL ? -1 : 0;
}

PyObject *itr_prestart(PyObject *thread, PyObject *exc, PyObject *reason) {
    if (prestart_records == NULL && (prestart_records = PyDict_New()) == NULL) {
        return NULL;
    }
    PyObject *key = PyLong_FromVoidPtr(thread);
    struct itr_thread *running = already_running(key);
    if (running != NULL) {
        Py_DECREF(key);
        return itr_interrupt_thread(running, exc, reason);
    }
    PyObject *list = key == NULL ? NULL : PyDict_GetItem(prestart_records, key);
    PyObject *handle = NULL;
    PyObject *wanted = exc == NULL || exc == Py_None ? itr_default_exception : exc;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list) && handle == NULL; i++) {
        itr_record *pending = (itr_record *)PyList_GET_ITEM(list, i);
        if (same_exc(pending->exc, wanted)) {
            handle = itr_handle_new(pending);
        }
    }
    if (key != NULL && handle == NULL && !PyErr_Occurred()) {
        itr_record *record = itr_record_new(exc, reason);
        PyObject *fresh = list == NULL ? PyList_New(0) : NULL;
        if (record != NULL && (list != NULL || (fresh != NULL && PyDict_SetItem(prestart_records, key, fresh) == 0))) {
            record->key = Py_NewRef(key);
            if (watch(record, thread) == 0 && PyList_Append(list != NULL ? list : fresh, (PyObject *)record) == 0) {
                handle = itr_handle_new(record);
            }
        }
        Py_XDECREF(fresh);
        Py_XDECREF(record);
    }
    Py_XDECREF(key);
    return handle;
}

PyObject *itr_prestart_take(PyObject *thread) {
    if (prestart_records == NULL || PyDict_GET_SIZE(prestart_records) == 0) {
        return NULL;
    }
    PyObject *key = PyLong_FromVoidPtr(thread);
    PyObject *list = key == NULL ? NULL : PyDict_GetItem(prestart_records, key);
    if (list != NULL) {
        Py_INCREF(list);
        if (PyDict_DelItem(prestart_records, key) != 0) {
            PyErr_Clear();
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            Py_CLEAR(((itr_record *)PyList_GET_ITEM(list, i))->thread);
        }
    }
    Py_XDECREF(key);
    return list;
}

int itr_prestart_pending(PyObject *thread) {
    if (prestart_records == NULL) {
        return 0;
    }
    PyObject *key = PyLong_FromVoidPtr(thread);
    PyObject *list = key == NULL ? NULL : PyDict_GetItem(prestart_records, key);
    int answer = list != NULL && PyList_GET_SIZE(list) > 0;
    Py_XDECREF(key);
    return key == NULL ? -1 : answer;
}

bool itr_prestart_remove(itr_record *record) {
    PyObject *key = record->thread == NULL ? NULL : Py_NewRef(record->key);
    PyObject *list = key == NULL || prestart_records == NULL ? NULL : PyDict_GetItem(prestart_records, key);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        if (PyList_GET_ITEM(list, i) == (PyObject *)record) {
            PyList_SetSlice(list, i, i + 1, NULL);
            break;
        }
    }
    if (list != NULL && PyList_GET_SIZE(list) == 0) {
        PyDict_DelItem(prestart_records, key);
    }
    Py_XDECREF(key);
    return PyErr_Occurred() == NULL;
}
