/* Is this frame one that nobody can catch in? What such code raises the interpreter hands to sys.unraisablehook:
 * finalizers, the callbacks of weak references and of the collector, generators that are given up; and that hook
 * itself. Or C code drops it, or makes another exception of it. */
#include "frames.h"
#include "opcodes.h"

#include <string.h>

static PyObject *name_del, *name_call;
static PyObject *gc_callbacks; /* the collector's own list */
static int op_call_ex = -1;    /* f(*args, **kwargs) */

int itr_finalizer_setup(PyObject *opmap) {
    PyObject *gc = PyImport_ImportModule("gc");
    if (gc == NULL) {
        return -1;
    }
    Py_XSETREF(gc_callbacks, PyObject_GetAttrString(gc, "callbacks"));
    Py_DECREF(gc);
    Py_XSETREF(name_del, PyUnicode_InternFromString("__del__"));
    Py_XSETREF(name_call, PyUnicode_InternFromString("__call__"));
    op_call_ex = opcode_number(opmap, "CALL_FUNCTION_EX");
    return gc_callbacks == NULL || name_del == NULL || name_call == NULL ? -1 : itr_io_dropped_setup();
}

/* The argument at this position; a new reference, or NULL. */
static PyObject *argument(PyFrameObject *frame, PyCodeObject *code, int at) {
    if (at < code->co_argcount) {
        return itr_local_at(frame, code, at);
    }
    if ((code->co_flags & CO_VARARGS) == 0) {
        return NULL;
    }
    PyObject *rest = itr_local_at(frame, code, code->co_argcount + code->co_kwonlyargcount);
    PyObject *found = NULL;
    at -= code->co_argcount;
    if (rest != NULL && PyTuple_Check(rest) && at < PyTuple_GET_SIZE(rest)) {
        found = PyTuple_GET_ITEM(rest, at);
        Py_INCREF(found);
    }
    Py_XDECREF(rest);
    return found;
}

static bool is_function_with(PyObject *object, const PyCodeObject *code) {
    return object != NULL && PyFunction_Check(object) && PyFunction_GET_CODE(object) == (PyObject *)(uintptr_t)code;
}

/* Whatever it is called: `__del__ = _close`. A normal call of it counts too: the interrupt waits a little longer. */
static bool is_del_of(PyObject *self, const PyCodeObject *code) {
    return self != NULL && Py_TYPE(self)->tp_finalize != NULL &&
           is_function_with(_PyType_Lookup(Py_TYPE(self), name_del), code);
}

/* What C code's finalizers (a socket's) warn of; they drop what comes out of that, if it is no warning. */
static bool shows_warning(PyFrameObject *frame, PyCodeObject *code) {
    return named(code, "_showwarnmsg") &&
           (itr_is_in_module(frame, "warnings") || itr_is_in_module(frame, "_py_warnings") /* from 3.14 on */);
}

/* Up to 3.11 a class makes a RuntimeError of what comes out of it. */
static bool names_attribute(PyCodeObject *code) { return PY_VERSION_HEX < 0x030C0000 && named(code, "__set_name__"); }

/* Called when something has died: with its weak reference, which is dead by then (weakref.finalize, multiprocessing's
 * Finalize, the containers of weakref). A function that got a dead reference in another way only waits a little longer
 * for its interrupt. */
static bool is_dead_reference(PyObject *object) {
    if (object == NULL || !PyWeakref_CheckRef(object)) {
        return false;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *alive = NULL;
    int state = PyWeakref_GetRef(object, &alive);
    Py_XDECREF(alive);
    return state == 0;
#else
    return PyWeakref_GET_OBJECT(object) == Py_None;
#endif
}

/* What a thread was started with is no callback, though what its arguments refer to may be dead: an executor's workers,
 * when nobody holds the executor any more, would never be interrupted. Its caller is nobody, or the call in a run() of
 * threading's; which afterwards drops the arguments, with the callbacks that this may have. */
static bool is_threads_own(PyFrameObject *frame) {
    PyFrameObject *back = PyFrame_GetBack(frame);
    if (back == NULL) {
        return true;
    }
    PyCodeObject *code = PyFrame_GetCode(back);
    bool own = named(code, "run") && itr_is_protected(back);
    if (own) {
        PyObject *bytes = bytes_of(code);
        int at = lasti_of(back);
        own = bytes != NULL && at >= 0 && at < PyBytes_GET_SIZE(bytes) &&
              (unsigned char)PyBytes_AS_STRING(bytes)[at] == op_call_ex;
        Py_XDECREF(bytes);
    }
    Py_DECREF(code);
    Py_DECREF(back);
    return own;
}

/* A function, a method, or an object whose class can be called. */
static bool is_collectors_callback(const PyCodeObject *code) {
    for (Py_ssize_t i = 0; PyList_Check(gc_callbacks) && i < PyList_GET_SIZE(gc_callbacks); i++) {
        PyObject *callback = PyList_GET_ITEM(gc_callbacks, i);
        PyObject *function = PyMethod_Check(callback) ? PyMethod_GET_FUNCTION(callback) : callback;
        if (is_function_with(function, code) || is_function_with(_PyType_Lookup(Py_TYPE(callback), name_call), code)) {
            return true;
        }
    }
    return false;
}

/* By what it is called with; nobody else gets that. */
bool itr_is_unraisable_hook(PyFrameObject *frame, PyCodeObject *code) {
    bool found = false;
    for (int at = 0; at < 2 && !found; at++) { /* behind `self`, perhaps */
        PyObject *value = argument(frame, code, at);
        found = value != NULL && strcmp(Py_TYPE(value)->tp_name, "UnraisableHookArgs") == 0;
        Py_XDECREF(value);
    }
    return found;
}

bool itr_is_finalizer(PyFrameObject *frame, PyCodeObject *code) {
    if (named(code, "__del__") || names_attribute(code) || shows_warning(frame, code) || is_collectors_callback(code) ||
        itr_is_question_of_io(frame, code)) {
        return true;
    }
    PyObject *first = argument(frame, code, 0);
    PyObject *second = argument(frame, code, 1); /* behind `self`, perhaps */
    bool found =
        is_del_of(first, code) || ((is_dead_reference(first) || is_dead_reference(second)) && !is_threads_own(frame));
    Py_XDECREF(first);
    Py_XDECREF(second);
    return found;
}

/* An exception, or what it came out of. */
static bool came_of_generator_exit(PyObject *exc) {
    Py_XINCREF(exc);
    bool found = false;
    for (int i = 0; i < 16 && exc != NULL && !found; i++) { /* a context may be its own */
        if (!PyExceptionInstance_Check(exc)) {
            break;
        }
        found = PyErr_GivenExceptionMatches(exc, PyExc_GeneratorExit) != 0;
        PyObject *context = PyException_GetContext(exc);
        Py_DECREF(exc);
        exc = context;
    }
    Py_XDECREF(exc);
    return found;
}

/* A generator that is given up with a `finally` to do, or a coroutine, or one that is closed: the interpreter does not
 * say which it is. */
bool itr_is_closing_generator(PyThreadState *tstate) {
    for (const _PyErr_StackItem *item = tstate->exc_info; item != NULL && item != &tstate->exc_state;
         item = item->previous_item) {
        if (came_of_generator_exit(item->exc_value)) {
            return true;
        }
    }
    return false;
}
