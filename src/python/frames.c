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
