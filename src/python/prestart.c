/* Interrupts of threads that have not started: they wait in a table until the thread's runner begins (runner.c). */
#include "core.h"

static PyObject *prestart_records; /* {id(thread): [records]}; prestart_gone() keeps it clean */
static PyObject *begun;            /* {id(thread): ident}: its runner is at work, though threading may not say so yet */

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

/* One that waits for this thread already. */
static PyObject *share(PyObject *key, PyObject *exc) {
    PyObject *list = PyDict_GetItem(prestart_records, key);
    if (list == NULL) {
        return NULL;
    }
    Py_INCREF(list);
    itr_record *pending = itr_record_equal(list, exc);
    Py_DECREF(list);
    PyObject *handle = pending == NULL ? NULL : itr_handle_new(pending);
    Py_XDECREF(pending);
    return handle;
}

/* What is made for it is made first: that may give up the GIL, and the thread may start, or get an equal one. Then
 * nothing but two looks, and the entry. */
static PyObject *enter(PyObject *thread, PyObject *key, PyObject *exc, PyObject *reason) {
    itr_record *record = itr_record_new(exc, reason);
    PyObject *fresh = PyList_New(0);
    PyObject *handle = record == NULL ? NULL : itr_handle_new(record);
    if (fresh != NULL && handle != NULL) {
        record->key = Py_NewRef(key);
    }
    if (fresh == NULL || handle == NULL || watch(record, thread) != 0) {
        Py_CLEAR(handle);
    } else {
        PyObject *shared = share(key, exc);
        struct itr_thread *running = already_running(key);
        PyObject *list = running != NULL ? NULL : PyDict_GetItem(prestart_records, key);
        if (shared != NULL || PyErr_Occurred()) {
            Py_SETREF(handle, shared);
        } else if (running != NULL) {
            Py_SETREF(handle, itr_interrupt_thread(running, exc, reason));
        } else if (PyList_Append(list != NULL ? list : fresh, (PyObject *)record) != 0 ||
                   (list == NULL && PyDict_SetItem(prestart_records, key, fresh) != 0)) {
            Py_CLEAR(handle);
        }
    }
    Py_XDECREF(fresh);
    Py_XDECREF(record);
    return handle;
}

PyObject *itr_prestart(PyObject *thread, PyObject *exc, PyObject *reason) {
    if (prestart_records == NULL && (prestart_records = PyDict_New()) == NULL) {
        return NULL;
    }
    PyObject *key = PyLong_FromVoidPtr(thread);
    if (key == NULL) {
        return NULL;
    }
    struct itr_thread *running = already_running(key);
    PyObject *handle = running != NULL ? itr_interrupt_thread(running, exc, reason) : share(key, exc);
    if (handle == NULL && !PyErr_Occurred()) {
        handle = enter(thread, key, exc, reason);
    }
    Py_DECREF(key);
    return handle;
}

bool itr_prestart_over(PyObject *thread) {
    PyObject *records = itr_prestart_take(thread);
    bool any = records != NULL && PyList_GET_SIZE(records) > 0;
    for (Py_ssize_t i = 0; records != NULL && i < PyList_GET_SIZE(records); i++) {
        itr_record_resolve((itr_record *)PyList_GET_ITEM(records, i), ITR_STATE_DISCARDED);
    }
    Py_XDECREF(records);
    return any;
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
