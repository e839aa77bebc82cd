/* The function a Python thread starts with, wrapped: it attaches the thread before any of its code runs, raises what
 * was recorded before the start in place of run(), and discards what is still pending when the function has returned.
 */
#include "core.h"

typedef struct {
    PyObject_HEAD PyObject *function;
} itr_runner;

PyObject *itr_runner_new(PyObject *function) {
    itr_runner *r = PyObject_New(itr_runner, &itr_runner_type);
    if (r != NULL) {
        Py_INCREF(function);
        r->function = function;
    }
    return (PyObject *)r;
}

static void dealloc(PyObject *self) {
    Py_XDECREF(((itr_runner *)self)->function);
    PyObject_Free(self);
}

/* threading prints the function a thread was started with when it fails: it sees its own. */
static PyObject *repr(PyObject *self) { return PyObject_Repr(((itr_runner *)self)->function); }

/* Stands in for an unstarted thread's run(): raises what is pending, or runs when that was taken back meanwhile. */
static PyObject *run_instead(PyObject *thread, PyObject *unused) {
    (void)unused;
    struct itr_thread *t = itr_thread_current();
    struct itr_slot *shielded = itr_shield();
    if (PyObject_DelAttrString(thread, "run") != 0) {
        PyErr_Clear();
    }
    itr_unshield(shielded);
    if (t != NULL && itr_thread_pending(t) && itr_raise_next(t)) {
        return NULL;
    }
    return PyObject_CallMethod(thread, "run", NULL);
}

static PyMethodDef run_def = {"run", run_instead, METH_NOARGS, NULL};

/* Has the thread raise in place of its run(). Whoever refuses that attribute is interrupted a little later. */
static void replace_run(PyObject *thread, PyObject *run) {
    struct itr_slot *shielded = itr_shield();
    if (PyObject_SetAttrString(thread, "run", run) != 0) {
        PyErr_Clear();
    }
    itr_unshield(shielded);
}

static void take_prestart(struct itr_thread *t, PyObject *function) {
    if (!PyMethod_Check(function)) {
        return;
    }
    PyObject *thread = PyMethod_GET_SELF(function);
    PyObject *run = PyCFunction_New(&run_def, thread); /* before: it may give up the GIL */
    if (run == NULL || itr_prestart_begun(thread, t) != 0) {
        PyErr_Clear();
    }
    /* From the table into the queue without giving up the GIL: in between they would be nobody's. */
    PyObject *records = itr_prestart_take(thread);
    for (Py_ssize_t i = 0; records != NULL && i < PyList_GET_SIZE(records); i++) {
        itr_record *record = (itr_record *)PyList_GET_ITEM(records, i);
        if (record->state == ITR_STATE_PENDING && itr_record_enqueue(t, record) != 0) {
            PyErr_Clear();
        }
    }
    if (PyList_GET_SIZE(t->queue) > 0) {
        itr_api->raise(t->ref, ITR_PENDING_PY);
    }
    if (records != NULL && run != NULL) {
        replace_run(thread, run);
    }
    Py_XDECREF(run);
    Py_XDECREF(records);
}

/* What comes out of a thread is reported with its function as the object: up to 3.12 that is sys.unraisablehook's
 * `object`, where the interpreter would name the runner. Later it is a part of the message, made by our repr(). */
static PyObject *report(PyObject *function) {
#if PY_VERSION_HEX < 0x030D0000
    if (!PyErr_ExceptionMatches(PyExc_SystemExit)) {
        _PyErr_WriteUnraisableMsg("in thread started by", function);
        Py_RETURN_NONE;
    }
#else
    (void)function;
#endif
    return NULL;
}

static PyObject *call(PyObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *function = ((itr_runner *)self)->function;
    struct itr_thread *t = itr_thread_current();
    if (t != NULL) {
        t->tells = true;
        take_prestart(t, function);
    }
    PyObject *result = PyObject_Call(function, args, kwargs);
    t = itr_thread_attached();
    if (t != NULL) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        itr_thread_end(t);
        if (PyMethod_Check(function) && itr_prestart_begun(PyMethod_GET_SELF(function), NULL) != 0) {
            PyErr_Clear();
        }
        PyErr_Restore(type, value, traceback);
    }
    return result == NULL ? report(function) : result;
}

PyTypeObject itr_runner_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "interruptible_threading._core._Runner",
    .tp_basicsize = sizeof(itr_runner),
    .tp_dealloc = dealloc,
    .tp_repr = repr,
    .tp_call = call,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};
