/* Fork and the end of the interpreter: this library's native threads are gone before, and nothing of it is in the
 * interpreter's own queues. */
#include "core.h"

static PyObject *before_fork(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    itr_async_before_fork();
    Py_RETURN_NONE;
}

/* Every lock of CPython's is in order again: interrupts that the forking thread has brought along may be seen to. */
static PyObject *after_fork(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    itr_async_after_fork();
    itr_threads_after_fork();
    itr_main_signals_after_fork();
    itr_api->monitor_allow();
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    itr_async_stop();
    Py_BEGIN_ALLOW_THREADS itr_api->monitor_stop();
    Py_END_ALLOW_THREADS itr_api->set_hooks(NULL, NULL);
    itr_main_signals_stop();
    itr_api->monitor_allow();
    Py_RETURN_NONE;
}

static PyMethodDef hook_defs[] = {
    {"_before_fork", before_fork, METH_NOARGS, NULL},
    {"_after_fork", after_fork, METH_NOARGS, NULL},
    {"_stop", stop, METH_NOARGS, NULL},
};

#if PY_VERSION_HEX >= 0x030D0000
/* threading._shutdown(), and then a queue without our calls (itr_async_drain()). Nothing later in Python code comes
 * before the interpreter's own look at that queue. In C, so that tracebacks show nothing of it. */
static PyObject *shut_down(PyObject *original, PyObject *unused) {
    (void)unused;
    PyObject *result = PyObject_CallNoArgs(original);
    PyObject *raised = result == NULL ? PyErr_GetRaisedException() : NULL;
    if (itr_async_drain() != 0) {
        if (raised == NULL) {
            Py_CLEAR(result);
            return NULL;
        }
        PyErr_WriteUnraisable(original);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return result;
}

static PyMethodDef shut_down_def = {"_shutdown", shut_down, METH_NOARGS, NULL};

static int wrap_shutdown(void) {
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *original = threading == NULL ? NULL : PyObject_GetAttrString(threading, "_shutdown");
    PyObject *wrapped = original == NULL ? NULL : PyCFunction_New(&shut_down_def, original);
    int result = wrapped == NULL ? -1 : PyObject_SetAttrString(threading, "_shutdown", wrapped);
    Py_XDECREF(threading);
    Py_XDECREF(original);
    Py_XDECREF(wrapped);
    return result;
}
#else
static int wrap_shutdown(void) { return 0; }
#endif

int itr_register_hooks(void) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *before = PyCFunction_New(&hook_defs[0], NULL);
    PyObject *after = PyCFunction_New(&hook_defs[1], NULL);
    PyObject *at_end = PyCFunction_New(&hook_defs[2], NULL);
    PyObject *reg = os == NULL ? NULL : PyObject_GetAttrString(os, "register_at_fork");
    PyObject *kwargs =
        before == NULL || after == NULL ? NULL : Py_BuildValue("{s:O,s:O}", "before", before, "after_in_child", after);
    PyObject *none = PyTuple_New(0);
    PyObject *done = reg == NULL || kwargs == NULL || none == NULL ? NULL : PyObject_Call(reg, none, kwargs);
    PyObject *done2 =
        atexit == NULL || at_end == NULL || done == NULL ? NULL : PyObject_CallMethod(atexit, "register", "O", at_end);
    int result = done2 == NULL ? -1 : wrap_shutdown();
    Py_XDECREF(os);
    Py_XDECREF(atexit);
    Py_XDECREF(before);
    Py_XDECREF(after);
    Py_XDECREF(at_end);
    Py_XDECREF(reg);
    Py_XDECREF(kwargs);
    Py_XDECREF(none);
    Py_XDECREF(done);
    Py_XDECREF(done2);
    return result;
}
