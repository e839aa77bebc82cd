#ifndef ITR_OPCODES_H
#define ITR_OPCODES_H

#include <Python.h>

/* The number that this interpreter gives an opcode (`opmap` is the module opcode's); -1: it has no such opcode. */
static inline int opcode_number(PyObject *opmap, const char *name) {
    PyObject *value = PyDict_GetItemString(opmap, name);
    return value == NULL ? -1 : (int)PyLong_AsLong(value);
}

#endif
