/* Is this frame one of a finalizer? Nobody can catch what it raises: the interpreter hands it to sys.unraisablehook. */
#include "frames.h"

/* A local variable, arguments come first, as it is now; a new reference, or NULL. */
static PyObject *local(PyFrameObject *frame, PyCodeObject *code, int at) {
#if PY_VERSION_HEX < 0x030B0000
    (void)code;
    PyObject *found = frame->f_localsplus[at];
    Py_XINCREF(found);
#elif PY_VERSION_HEX < 0x030C0000
    const struct frame_3_11 *raw = raw_of(frame); /* no PyFrame_GetVar() yet */
    PyObject *found = raw != NULL && raw->code == code ? raw->localsplus[at] : NULL;
    Py_XINCREF(found);
#else
    PyObject *names = PyCode_GetVarnames(code);
    PyObject *found =
        names == NULL || at >= PyTuple_GET_SIZE(names) ? NULL : PyFrame_GetVar(frame, PyTuple_GET_ITEM(names, at));
    Py_XDECREF(names);
#endif
    if (found == NULL) {
        PyErr_Clear(); /* it was deleted */
    }
    return found;
}

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

bool itr_is_finalizer(PyFrameObject *frame, PyCodeObject *code) {
    if (named(code, "__del__")) {
        return true;
    }
    bool found = false;
    for (int at = 0; at < 2 && at < code->co_argcount && !found; at++) { /* behind `self`, perhaps */
        PyObject *value = local(frame, code, at);
        found = is_dead_reference(value);
        Py_XDECREF(value);
    }
    if (!found && code->co_argcount < 2 && (code->co_flags & CO_VARARGS) != 0) {
        PyObject *rest = local(frame, code, code->co_argcount + code->co_kwonlyargcount);
        if (rest != NULL && PyTuple_Check(rest) && PyTuple_GET_SIZE(rest) > 0) {
            found = is_dead_reference(PyTuple_GET_ITEM(rest, 0));
        }
        Py_XDECREF(rest);
    }
    return found;
}
