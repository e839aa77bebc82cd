/* What a frame holds on its value stack: see held.c. */
#ifndef ITR_HELD_H
#define ITR_HELD_H

#include <Python.h>
#include <stdbool.h>

/* `opmap` is the module opcode's. */
int itr_held_setup(PyObject *opmap);

enum itr_held_where {
    ITR_HELD_CALLING, /* the instruction at `lasti` has called something that runs now */
    ITR_HELD_EDGE     /* it jumps back: what its condition takes is not held any more */
};
/* May anything on the stack at byte offset `lasti` come from a call? `bytes` is the code without specialisation. */
bool itr_held(PyCodeObject *code, PyObject *bytes, int lasti, enum itr_held_where where);

/* For the tests: a byte for each code unit, or NULL with an exception. */
PyObject *itr_held_map(PyCodeObject *code, PyObject *bytes);

#endif
