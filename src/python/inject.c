/* Choosing the instruction (DESIGN 4.2, 4.3, 4.6; evidence in delivery_experiments.md).
 *
 * Fit are back edges and function entries: nothing but loop iterators and arguments is on the value stack there. Behind
 * a call its result is on the stack, and an exception would lose it. */
#include "clock.h"
#include "exception_table.h"
#include "frames.h"
#include "held.h"
#include "opcodes.h"

#include <string.h>

#define REST 4               /* so many times as long as the look took, */
#define MOST_LOOK_NS 5000000 /* ... which may have been stopped meanwhile */
#define STARVED_NS 50000000
#define STARVED_LOOKS 300 /* so long on a processor, not waiting for one */

/* Opcodes, by the numbers of this interpreter; -1: it has no such opcode. */
static int op_resume = -1;
static int back_edges[16];
static int n_back_edges;
static bool jumps_are_absolute; /* up to 3.10: a back edge is known by its target */
static int op_extended_arg = -1;

static PyObject *uninterruptible; /* {code: None} */

int itr_inject_uninterruptible(PyObject *code) { return PyDict_SetItem(uninterruptible, code, Py_None); }

int itr_inject_setup(PyObject *opmap) {
    static const char *const edges[] = {"JUMP_BACKWARD", "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_FALSE",
                                        "POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE"};
    static const char *const absolute[] = {"JUMP_ABSOLUTE", "POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE"};
    n_back_edges = 0;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        int op = opcode_number(opmap, edges[i]);
        if (op >= 0) {
            back_edges[n_back_edges++] = op;
        }
    }
    jumps_are_absolute = n_back_edges == 0;
    for (size_t i = 0; jumps_are_absolute && i < sizeof absolute / sizeof *absolute; i++) {
        int op = opcode_number(opmap, absolute[i]);
        if (op >= 0) {
            back_edges[n_back_edges++] = op;
        }
    }
    if (itr_held_setup(opmap) != 0) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (itr_table_setup(opmap) != 0) {
        return -1;
    }
#endif
    op_resume = opcode_number(opmap, "RESUME");
    op_extended_arg = opcode_number(opmap, "EXTENDED_ARG");
    if (uninterruptible == NULL) {
        uninterruptible = PyDict_New();
        if (uninterruptible == NULL || itr_may_raise_setup() != 0 || itr_finalizer_setup(opmap) != 0) {
            return -1;
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* Walks the stack from `frame` down: may it be cut at all? (DESIGN 4.6) Steals the reference. */
static bool walk_stack(PyThreadState *tstate, PyFrameObject *frame, bool *result_pending, struct itr_thread *t) {
    bool above_user = true;
    bool ok = !itr_is_closing_generator(tstate);
    bool noted_seen = t->noted_frame == NULL;
    *result_pending = false;
    while (frame != NULL && ok) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        if (above_user) {
            if (itr_is_protected(frame)) {
                ok = false;
            } else if (!itr_is_library(code)) {
                above_user = false;
            }
        }
        if (ok && (itr_is_whole(frame) || itr_is_finalizer(frame, code) || itr_is_unraisable_hook(frame, code) ||
                   named(code, "__exit__") || named(code, "__aexit__") ||
                   PyDict_GetItem(uninterruptible, (PyObject *)code) != NULL)) {
            ok = false;
        }
        if (t->noted_frame == raw_of(frame)) {
            noted_seen = true;
            *result_pending = *result_pending || t->noted_lasti == lasti_of(frame);
        }
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    t->noted_gone = !noted_seen;
    return ok;
}

/* A look that walked the stack in vain is followed by a rest: code that must not be cut would crawl, one look at each
 * call and round, and what is deep would take the square of its depth. */
static bool rests(const struct itr_thread *t, int64_t now) { return now < t->look_after_ns; }

/* The same as walk_stack(), at the end of a look that has `begun` then. */
static bool stack_may_be_cut(PyThreadState *tstate, PyFrameObject *frame, bool *result_pending, struct itr_thread *t,
                             int64_t begun) {
    bool ok = walk_stack(tstate, frame, result_pending, t);
    int64_t now = ok ? 0 : now_ns();
    int64_t took = now - begun;
    t->look_after_ns = ok ? 0 : now + REST * (took < MOST_LOOK_NS ? took : MOST_LOOK_NS);
    return ok;
}

static bool is_back_edge(const unsigned char *bytes, Py_ssize_t n, int at, int *op_out, int *arg_out) {
    int arg = 0;
    int start = at;
    while (start >= 2 && bytes[start - 2] == op_extended_arg) {
        start -= 2;
    }
    for (int i = start; i <= at && i + 1 < n; i += 2) {
        arg = arg << 8 | bytes[i + 1];
    }
    *op_out = bytes[at];
    *arg_out = arg;
    for (int i = 0; i < n_back_edges; i++) {
        if (back_edges[i] == bytes[at]) {
#if PY_VERSION_HEX >= 0x030A0000
            return !jumps_are_absolute || arg * 2 <= at;
#else
            return !jumps_are_absolute || arg <= at;
#endif
        }
    }
    return false;
}

/* Recursion and loops whose every place holds a result must end as well: f(int(x)), sum(map(f, xs)), a comprehension
 * beside a call. Such a place will do when there was nothing else for so long. */
static bool starves(struct itr_thread *t) {
    const itr_record *first = itr_first(t);
    unsigned long long id = first == NULL ? 0 : first->id;
    int64_t ns = now_ns();
    if (t->starved != id || t->starved_count != t->exact_count) {
        t->starved = id;
        t->starved_count = t->exact_count;
        t->starved_since_ns = ns;
        t->starved_looks = 0;
    }
    t->starved_looks += t->starved_looks < STARVED_LOOKS;
    return id != 0 && t->starved_looks == STARVED_LOOKS && ns - t->starved_since_ns > STARVED_NS;
}

/* f(recv(), g()): what recv() gave is on the stack of the frame that calls g(), or f(recv()). */
static bool caller_holds_result(PyFrameObject *frame) {
    PyFrameObject *back = PyFrame_GetBack(frame);
    if (back == NULL) {
        return false;
    }
    PyCodeObject *code = PyFrame_GetCode(back);
    PyObject *bytes = bytes_of(code);
    bool held = bytes == NULL || itr_held(code, bytes, lasti_of(back), ITR_HELD_CALLING);
    Py_XDECREF(bytes);
    Py_DECREF(code);
    Py_DECREF(back);
    PyErr_Clear();
    return held;
}

/* May it be cut at its entry, as far as it and its caller are concerned? The first question is the cheaper one. */
static bool entry_will_do(struct itr_thread *t, PyFrameObject *frame) {
    return !itr_is_protected(frame) && (!caller_holds_result(frame) || starves(t));
}

/* [recv(), [x for x in y]]: from 3.12 a comprehension's loop is in the frame that it stands in. */
static bool edge_will_do(struct itr_thread *t, PyFrameObject *frame, PyCodeObject *code, PyObject *bytes) {
    return !itr_is_protected(frame) &&
           (!ITR_BY_PENDING_CALL || !itr_held(code, bytes, lasti_of(frame), ITR_HELD_EDGE) || starves(t));
}

static bool tracing_now(PyThreadState *tstate) { return tstate->tracing != 0; }

enum itr_fit itr_fit_position(struct itr_thread *t, PyThreadState *tstate) {
    int64_t begun = now_ns();
    if (rests(t, begun) || atomic_load_explicit(&t->slot->exact, memory_order_relaxed) != 0 ||
        atomic_load_explicit(&t->slot->mask, memory_order_relaxed) != ITR_MASK_NONE || tracing_now(tstate)) {
        return ITR_UNFIT;
    }
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);
    if (frame == NULL) {
        return ITR_UNFIT;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int lasti = lasti_of(frame);
    enum itr_fit fit = ITR_UNFIT_CALL;
    PyObject *bytes = NULL;
    bool entry = false;
    bool edge = false;
    int op = 0;
    int arg = 0;
    if (lasti < 0) {
#if PY_VERSION_HEX < 0x030B0000
        entry = true; /* a frame that has not begun */
#endif
    } else {
        bytes = bytes_of(code);
        if (bytes != NULL && lasti + 1 < PyBytes_GET_SIZE(bytes)) {
            const unsigned char *raw = (const unsigned char *)PyBytes_AS_STRING(bytes);
            edge = is_back_edge(raw, PyBytes_GET_SIZE(bytes), lasti, &op, &arg);
            entry = op == op_resume && (arg & 3) == 0;
        }
    }
    /* C code evaluates expressions of its own while it holds an exception, and drops what they raise: the tracebacks of
     * Cython's limited API builds (pyzmq's) are made by "_getframe()" in a code object that is named as the function.
     */
    bool function = (code->co_flags & CO_NEWLOCALS) != 0;
    if ((entry && function) || edge) {
        fit = ITR_FIT;
    } else if (entry) {
        fit = ITR_UNFIT;
    }
    if (fit == ITR_FIT && !(edge ? edge_will_do(t, frame, code, bytes) : entry_will_do(t, frame))) {
        fit = ITR_UNFIT;
    }
    bool result_pending = false;
    bool walk = fit == ITR_FIT || !ITR_BY_PENDING_CALL; /* up to 3.11 it matters where a call is */
    Py_INCREF(frame);
    if (!walk) {
        Py_DECREF(frame);
    } else if (!stack_may_be_cut(tstate, frame, &result_pending, t, begun) ||
               (result_pending && fit == ITR_UNFIT_CALL)) {
        fit = ITR_UNFIT;
    }
#if PY_VERSION_HEX >= 0x030B0000
    /* A back edge outside the exception table whose target is in it: the source's `try` would not catch (whole classes
     * of loops on 3.11-3.14). Declining would hang: it may be the loop's only check. */
    if (fit == ITR_FIT && edge && itr_repair_table(code, bytes, lasti, arg) != 0) {
        PyErr_Clear();
        fit = ITR_UNFIT;
    }
#endif
    PyErr_Clear();
    Py_XDECREF(bytes);
    Py_DECREF(code);
    Py_DECREF(frame);
    return fit;
}

#if !ITR_BY_PENDING_CALL
/* Where some jump back in this code leads to: like behind a back edge, only loop iterators are on the stack. Its
 * position, or -1. */
static int edge_to(PyObject *bytes, int lasti) {
    for (int at = lasti; at + 1 < PyBytes_GET_SIZE(bytes); at += 2) {
        int op = 0, arg = 0;
        if (is_back_edge((const unsigned char *)PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes), at, &op, &arg)) {
#if PY_VERSION_HEX >= 0x030B0000
            bool found = at + 2 - arg * 2 == lasti;
#elif PY_VERSION_HEX >= 0x030A0000
            bool found = arg * 2 == lasti;
#else
            bool found = arg == lasti;
#endif
            if (found) {
                return at;
            }
        }
    }
    return -1;
}

static bool is_loop_head(PyCodeObject *code, int lasti) {
    PyObject *bytes = bytes_of(code);
    int edge = bytes == NULL ? -1 : edge_to(bytes, lasti);
    bool ok = edge >= 0;
#if PY_VERSION_HEX >= 0x030B0000
    /* The `try` that begins a loop's body leaves a NOP at its head, which no table covers. */
    ok = ok && itr_cover_head(code, lasti, edge) == 0;
#endif
    Py_XDECREF(bytes);
    return ok;
}

bool itr_fit_event(struct itr_thread *t, PyFrameObject *frame, bool call) {
    int64_t begun = now_ns();
    if (rests(t, begun)) {
        return false;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int lasti = lasti_of(frame);
    bool fit = false;
    if (!call) {
        fit = is_loop_head(code, lasti);
    } else {
#if PY_VERSION_HEX >= 0x030B0000
        PyObject *bytes = bytes_of(code); /* not where a generator goes on */
        fit = bytes != NULL && lasti >= 0 && lasti + 1 < PyBytes_GET_SIZE(bytes) &&
              (unsigned char)PyBytes_AS_STRING(bytes)[lasti] == op_resume &&
              ((unsigned char)PyBytes_AS_STRING(bytes)[lasti + 1] & 3) == 0;
        Py_XDECREF(bytes);
#else
        fit = lasti < 0;
#endif
        fit = fit && entry_will_do(t, frame);
    }
    Py_DECREF(code);
    if (fit) {
        bool unused = false;
        Py_INCREF(frame);
        fit = stack_may_be_cut(PyThreadState_Get(), frame, &unused, t, begun);
    }
    PyErr_Clear();
    return fit;
}
#endif

void itr_note_exact(struct itr_thread *t) {
    t->exact_count++;
#if !ITR_BY_PENDING_CALL
    t->noted_frame = itr_frame_now(t->tstate);
#if PY_VERSION_HEX >= 0x030B0000
    const struct frame_3_11 *raw = t->noted_frame;
    t->noted_lasti =
        raw == NULL ? -1 : (int)((const char *)raw->prev_instr - (const char *)raw->code->co_code_adaptive);
#else
    t->noted_lasti = t->tstate->frame == NULL ? -1 : lasti_of(t->tstate->frame);
#endif
#endif /* from 3.12 nothing is ever injected behind a call */
}
