/* What each instruction does to a value stack: see value_stack.c. */
#ifndef ITR_VALUE_STACK_H
#define ITR_VALUE_STACK_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

struct itr_stack {
    int depth;           /* -1: nothing has come here yet */
    uint64_t held, kept; /* the bit of the lowest value is the lowest; all above the 63rd share one */
};

struct itr_instruction {
    int op, arg;
    int resumes; /* the argument of a RESUME that follows, or -1 */
};

/* `opmap` is the module opcode's. */
int itr_stack_setup(PyObject *opmap);
/* What the stack is like behind it, where it goes on or where it jumps to. False: it is not understood. */
bool itr_stack_apply(struct itr_stack *s, const struct itr_instruction *i, bool jump);
/* Drop all that is above. */
void itr_stack_cut(struct itr_stack *s, int depth);
/* Where it may jump to, in code units, or -1. `next` is the unit behind it. */
int itr_stack_target(const struct itr_instruction *i, int next);
/* What follows is reached from elsewhere only. */
bool itr_stack_ends(int op);

#endif
