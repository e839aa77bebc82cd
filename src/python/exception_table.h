/* Exception tables (3.11+): see exception_table.c. */
#ifndef ITR_EXCEPTION_TABLE_H
#define ITR_EXCEPTION_TABLE_H

#include <Python.h>

/* Give the back edge at byte offset `lasti` with jump argument `arg` the handler that its target has, if it has none of
 * its own or only an outer one. 0: the table is right now. -1: it could not be repaired (with an exception set),
 * or this edge would raise into a handler that has just ended (3.11, 3.12). */
int itr_repair_table(PyCodeObject *code, PyObject *bytes, int lasti, int arg);
/* `opmap` is the module opcode's. */
int itr_table_setup(PyObject *opmap);
/* Give the loop's head at byte offset `head`, if it has no handler, that of the back edge that leads to it. As above.
 */
int itr_cover_head(PyCodeObject *code, int head, int edge);

#if PY_VERSION_HEX >= 0x030B0000
/* A range of the code, in code units, and where an exception in it goes: with so many values left on the stack, where
 * it was raised if `lasti`, and itself. */
struct itr_handler {
    int start, end, target, depth, lasti;
};
struct itr_handlers {
    const unsigned char *at, *end;
    struct itr_handler now;
};
struct itr_handlers itr_handlers_of(const PyCodeObject *code);
/* The one that covers this unit, or NULL. To be asked in ascending order. */
const struct itr_handler *itr_handler_at(struct itr_handlers *handlers, int unit);
#endif

#endif
