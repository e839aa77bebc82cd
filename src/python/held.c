/* Is anything on a frame's value stack that a call has given? An exception would lose it.
 *
 * The stack (value_stack.c) is followed through the whole code, jumps and handlers included; where several ways meet,
 * what may be held on one of them is held. */
#include "held.h"
#include "core.h"
#include "exception_table.h"
#include "opcodes.h"
#include "value_stack.h"

#include <string.h>

#define MOST_ROUNDS 20
#define UNIT 2 /* bytes */

static int op_resume, op_extended_arg;

int itr_held_setup(PyObject *opmap) {
    op_resume = opcode_number(opmap, "RESUME");
    op_extended_arg = opcode_number(opmap, "EXTENDED_ARG");
    return itr_stack_setup(opmap);
}

struct walk {
    const unsigned char *bytes;
    int n; /* code units */
    struct itr_stack *at;
    bool again; /* something came to a place that was passed already */
};

/* The value stack may be like this at `unit` too. */
static bool merge(struct walk *w, int unit, int from, struct itr_stack s) {
    if (unit < 0 || unit >= w->n) {
        return false;
    }
    struct itr_stack *into = &w->at[unit];
    if (into->depth >= 0 && into->depth != s.depth) {
        return false;
    }
    if (into->depth < 0 || (s.held & ~into->held) != 0 || (s.kept & ~into->kept) != 0) {
        into->depth = s.depth;
        into->held |= s.held;
        into->kept |= s.kept;
        w->again = w->again || unit <= from;
    }
    return true;
}

static bool is_cache(const struct walk *w, int unit) {
    return PY_VERSION_HEX >= 0x030B0000 && unit < w->n && w->bytes[unit * UNIT] == 0;
}

/* Once through the code. False: it is not understood. */
static bool walk_once(struct walk *w, PyCodeObject *code) {
#if PY_VERSION_HEX >= 0x030B0000
    struct itr_handlers handlers = itr_handlers_of(code);
#else
    (void)code;
#endif
    int arg = 0;
    int next;
    for (int unit = 0; unit < w->n; unit = next) {
        struct itr_instruction i = {w->bytes[unit * UNIT], arg << 8 | w->bytes[unit * UNIT + 1], -1};
        arg = i.op == op_extended_arg ? i.arg : 0;
        for (next = unit + 1; is_cache(w, next); next++) {
        }
        struct itr_stack s = w->at[unit];
        if (s.depth < 0) {
            continue;
        }
#if PY_VERSION_HEX >= 0x030B0000
        const struct itr_handler *handler = itr_handler_at(&handlers, unit);
        if (handler != NULL) {
            struct itr_stack raised = s;
            itr_stack_cut(&raised, handler->depth);
            raised.depth = handler->depth + handler->lasti + 1;
            if (!merge(w, handler->target, unit, raised)) {
                return false;
            }
        }
        if (next < w->n && w->bytes[next * UNIT] == op_resume) {
            i.resumes = w->bytes[next * UNIT + 1];
        }
#endif
        int target = itr_stack_target(&i, next);
        if (target >= 0) {
            struct itr_stack jumped = s;
            if (!itr_stack_apply(&jumped, &i, true) || !merge(w, target, unit, jumped)) {
                return false;
            }
        }
        if (!itr_stack_ends(i.op) && (!itr_stack_apply(&s, &i, false) || !merge(w, next, unit, s))) {
            return false;
        }
    }
    return true;
}

/* The stack in front of each instruction, to be freed; NULL, with or without an exception: it is not understood. */
static struct itr_stack *follow(PyCodeObject *code, PyObject *bytes) {
    struct walk w = {(const unsigned char *)PyBytes_AS_STRING(bytes), (int)(PyBytes_GET_SIZE(bytes) / UNIT), NULL,
                     true};
    w.at = PyMem_Malloc((size_t)(w.n + 1) * sizeof *w.at);
    if (w.at == NULL) {
        return NULL;
    }
    memset(w.at, 0, (size_t)(w.n + 1) * sizeof *w.at);
    for (int unit = 1; unit <= w.n; unit++) {
        w.at[unit].depth = -1;
    }
    bool understood = true;
    for (int round = 0; w.again && understood; round++) {
        w.again = false;
        understood = round < MOST_ROUNDS && walk_once(&w, code);
    }
    if (!understood) {
        PyMem_Free(w.at);
        return NULL;
    }
    return w.at;
}

bool itr_held(PyCodeObject *code, PyObject *bytes, int lasti, enum itr_held_where where) {
    int unit = lasti / UNIT;
    if (lasti < 0 || lasti + 1 >= PyBytes_GET_SIZE(bytes)) {
        return true;
    }
    struct walk w = {(const unsigned char *)PyBytes_AS_STRING(bytes), (int)(PyBytes_GET_SIZE(bytes) / UNIT), NULL,
                     false};
    while (unit > 0 && is_cache(&w, unit)) { /* behind an inlined call its frame stands at the end of its caches */
        unit--;
    }
    struct itr_stack *at = follow(code, bytes);
    if (at == NULL) {
        return true;
    }
    struct itr_stack s = at[unit];
    PyMem_Free(at);
    if (where == ITR_HELD_EDGE && s.depth >= 0) {
        const struct itr_instruction i = {w.bytes[unit * UNIT], 0, -1};
        itr_stack_apply(&s, &i, true);
    }
    return s.depth < 0 || s.held != 0;
}

PyObject *itr_held_map(PyCodeObject *code, PyObject *bytes) {
    struct itr_stack *at = follow(code, bytes);
    if (at == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%R is not understood", code);
    }
    PyObject *map = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(bytes) / UNIT);
    for (Py_ssize_t unit = 0; map != NULL && unit < PyBytes_GET_SIZE(map); unit++) {
        if (at[unit].depth > code->co_stacksize) {
            Py_CLEAR(map);
            PyErr_Format(PyExc_ValueError, "%R would need %d places at unit %zd", code, at[unit].depth, unit);
            break;
        }
        PyBytes_AS_STRING(map)[unit] = at[unit].depth < 0   ? '-'
                                       : at[unit].held != 0 ? 'h'
                                       : at[unit].kept != 0 ? 'k'
                                                            : '.';
    }
    PyMem_Free(at);
    return map;
}
