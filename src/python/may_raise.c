/* Exact calls: where they must not raise, and where they are waited out. */
#include "frames.h"

static PyObject *threading_globals;
static PyObject *code_bootstrap;

static PyObject *code_of_method(PyObject *module, const char *type, const char *name) {
    PyObject *cls = PyObject_GetAttrString(module, type);
    PyObject *function = cls == NULL ? NULL : PyObject_GetAttrString(cls, name);
    PyObject *code = function == NULL ? NULL : PyObject_GetAttrString(function, "__code__");
    Py_XDECREF(cls);
    Py_XDECREF(function);
    return code;
}

int itr_may_raise_setup(void) {
    PyObject *threading = PyImport_ImportModule("threading");
    if (threading == NULL) {
        return -1;
    }
    threading_globals = PyModule_GetDict(threading);
    Py_INCREF(threading_globals);
    code_bootstrap = code_of_method(threading, "Thread", "_bootstrap_inner");
    Py_DECREF(threading);
    return code_bootstrap == NULL ? -1 : 0;
}

/* Calls in the library's own code that it cannot do without, by the function that makes them:
 * - _acquire_restore: Condition; the enclosing `with` releases the lock whatever happens.
 * - _execute_child: Popen() asks its new child whether it could exec; nobody would know of the child.
 * - what gives back or tells others: a permit that Semaphore.__exit__ did not give back is lost for ever, a queue whose
 *   task_done() was broken can never be joined. Their mutexes are held for a moment only. */
static bool must_finish(PyFrameObject *frame, PyCodeObject *code) {
    static const char *const names[] = {"_acquire_restore", "_execute_child", "release", "task_done", "set",
                                        "set_result",       "set_exception"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (named(code, names[i])) {
            return itr_is_protected(frame);
        }
    }
    return false;
}

bool itr_must_finish_here(void) {
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    bool found = false;
    bool top = true;
    while (frame != NULL && top) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        found = must_finish(frame, code);
        top = !found && named(code, "__enter__") && itr_is_protected(frame); /* Condition's, around its lock's */
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return found;
}

bool itr_may_raise_here(bool broken) {
    if (itr_must_finish_here()) {
        return false;
    }
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    PyFrameObject *above = NULL; /* the frame that `frame` called */
    bool ok = true;
    while (frame != NULL && ok) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        if (itr_is_finalizer(frame, code)) {
            /* Nobody can catch it there, and Popen's loses sight of a child. But a finalizer that waits is woken, and
             * the interrupt is recorded again. */
            ok = broken;
        } else if ((PyObject *)code == code_bootstrap) {
            /* threading's own bookkeeping around run(): nobody could catch it, and the thread would not be accounted
             * for. */
            if (above == NULL) {
                ok = false;
            } else {
                PyObject *globals = globals_of(above);
                PyCodeObject *above_code = PyFrame_GetCode(above);
                ok = globals != threading_globals || named(above_code, "run");
                Py_DECREF(above_code);
                Py_DECREF(globals);
            }
        }
        Py_DECREF(code);
        Py_XDECREF(above);
        above = frame;
        frame = PyFrame_GetBack(frame);
    }
    Py_XDECREF(above);
    Py_XDECREF(frame);
    return ok;
}
