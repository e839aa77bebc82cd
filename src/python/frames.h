/* What is looked at in a frame, in each version's own way. */
#ifndef ITR_FRAMES_H
#define ITR_FRAMES_H

#include "core.h"

#if PY_VERSION_HEX >= 0x030B0000
static inline int lasti_of(PyFrameObject *frame) { return PyFrame_GetLasti(frame); }
static inline PyObject *globals_of(PyFrameObject *frame) { return PyFrame_GetGlobals(frame); }
#else
static inline int lasti_of(PyFrameObject *frame) {
#if PY_VERSION_HEX >= 0x030A0000
    return frame->f_lasti < 0 ? -1 : frame->f_lasti * 2;
#else
    return frame->f_lasti;
#endif
}
static inline PyObject *globals_of(PyFrameObject *frame) {
    Py_INCREF(frame->f_globals);
    return frame->f_globals;
}
#endif

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
/* 3.11's interpreter frame, which its headers keep to themselves; itr_inject_probe() compares it with what they tell.
 */
struct frame_3_11 {
    PyObject *func, *globals, *builtins, *locals;
    PyCodeObject *code;
    void *frame_obj, *previous;
    const void *prev_instr;
    int stacktop;
    bool is_entry;
    char owner;
    PyObject *localsplus[1];
};
struct frame_object_3_11 {
    PyObject_HEAD PyFrameObject *f_back;
    const struct frame_3_11 *f_frame;
};
static inline const struct frame_3_11 *raw_of(PyFrameObject *frame) {
    return ((const struct frame_object_3_11 *)(void *)frame)->f_frame;
}
#else
static inline const void *raw_of(PyFrameObject *frame) { return frame; }
#endif

static inline PyObject *bytes_of(PyCodeObject *code) {
#if PY_VERSION_HEX >= 0x030B0000
    return PyCode_GetCode(code); /* without specialisation and instrumentation */
#else
    Py_INCREF(code->co_code);
    return code->co_code;
#endif
}

static inline bool named(PyCodeObject *code, const char *name) {
    return PyUnicode_CompareWithASCIIString(code->co_name, name) == 0;
}

bool itr_is_in_module(PyFrameObject *frame, const char *module);

/* A local variable as it is now, by its place (arguments come first) or name; a reference, or NULL: it has no value. */
PyObject *itr_local_at(PyFrameObject *frame, PyCodeObject *code, int at);
PyObject *itr_local(PyFrameObject *frame, PyCodeObject *code, const char *name);

#endif
