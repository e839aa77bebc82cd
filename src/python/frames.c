/* The frame that a thread runs, and whether frames are laid out as frames.h says. */
#include "frames.h"

const void *itr_frame_now(PyThreadState *tstate) {
#if PY_VERSION_HEX >= 0x030D0000
    return tstate->current_frame;
#elif PY_VERSION_HEX >= 0x030B0000
    return tstate->cframe->current_frame;
#else
    return tstate->frame;
#endif
}

bool itr_inject_probe(void) {
#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
    PyFrameObject *frame = PyEval_GetFrame();
    const struct frame_3_11 *raw = frame == NULL ? NULL : raw_of(frame);
    PyCodeObject *code = frame == NULL ? NULL : PyFrame_GetCode(frame);
    bool same = frame == NULL ||
                (raw == itr_frame_now(PyThreadState_Get()) && raw->code == code &&
                 (const char *)raw->prev_instr - (const char *)code->co_code_adaptive == PyFrame_GetLasti(frame));
    Py_XDECREF(code);
    return same;
#else
    return true;
#endif
}

/* A local variable, arguments come first, as it is now; a new reference, or NULL. */
PyObject *itr_local_at(PyFrameObject *frame, PyCodeObject *code, int at) {
#if PY_VERSION_HEX < 0x030B0000
    PyObject *found = frame->f_localsplus[at];
    if (found == NULL && code->co_cell2arg != NULL) { /* an inner function uses it */
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_cellvars) && found == NULL; i++) {
            if (code->co_cell2arg[i] == at) {
                found = frame->f_localsplus[code->co_nlocals + i];
            }
        }
    }
#elif PY_VERSION_HEX < 0x030C0000
    const struct frame_3_11 *raw = raw_of(frame); /* no PyFrame_GetVar() yet */
    PyObject *found = raw != NULL && raw->code == code ? raw->localsplus[at] : NULL;
#else
    PyObject *names = PyCode_GetVarnames(code);
    PyObject *found =
        names == NULL || at >= PyTuple_GET_SIZE(names) ? NULL : PyFrame_GetVar(frame, PyTuple_GET_ITEM(names, at));
    Py_XDECREF(names);
    if (found == NULL) {
        PyErr_Clear(); /* it was deleted */
    }
#endif
#if PY_VERSION_HEX < 0x030C0000
    if (found != NULL && PyCell_Check(found)) {
        found = PyCell_GET(found);
    }
    Py_XINCREF(found);
#endif
    return found;
}

static PyObject *names_of(PyCodeObject *code) {
#if PY_VERSION_HEX >= 0x030B0000
    return PyCode_GetVarnames(code);
#else
    Py_INCREF(code->co_varnames);
    return code->co_varnames;
#endif
}

PyObject *itr_local(PyFrameObject *frame, PyCodeObject *code, const char *name) {
    PyObject *names = names_of(code);
    PyObject *found = NULL;
    for (Py_ssize_t i = 0; names != NULL && found == NULL && i < PyTuple_GET_SIZE(names); i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), name) == 0) {
            found = itr_local_at(frame, code, (int)i);
        }
    }
    Py_XDECREF(names);
    PyErr_Clear();
    return found;
}
