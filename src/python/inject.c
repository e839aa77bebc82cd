/* Choosing the instruction (DESIGN 4.2, 4.3, 4.6; evidence in delivery_experiments.md).
 *
 * Fit are back edges and function entries: nothing but loop iterators and arguments is on the value stack there. Behind
 * a call its result is on the stack, and an exception would lose it. */
#include "exception_table.h"
#include "frames.h"

#include <string.h>

/* Opcodes, by the numbers of this interpreter; -1: it has no such opcode. */
static int op_resume = -1;
static int back_edges[16];
static int n_back_edges;
static bool jumps_are_absolute; /* up to 3.10: a back edge is known by its target */
static int op_extended_arg = -1;
static bool is_store[256]; /* opcodes that take a value off the stack for good */
static bool is_call[256];

static PyObject *protected_globals; /* {id(dict): dict}: code that must not be cut */
static PyObject *uninterruptible;   /* {code: None} */
static char *stdlib_prefix;

static int number(PyObject *opmap, const char *name) {
    PyObject *value = PyDict_GetItemString(opmap, name);
    return value == NULL ? -1 : (int)PyLong_AsLong(value);
}

int itr_inject_protect(PyObject *globals) {
    PyObject *key = PyLong_FromVoidPtr(globals);
    int result = key == NULL ? -1 : PyDict_SetItem(protected_globals, key, globals);
    Py_XDECREF(key);
    return result;
}

int itr_inject_uninterruptible(PyObject *code) { return PyDict_SetItem(uninterruptible, code, Py_None); }

int itr_inject_setup(PyObject *opmap, PyObject *protected_list, PyObject *stdlib) {
    static const char *const edges[] = {"JUMP_BACKWARD", "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_FALSE",
                                        "POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE"};
    static const char *const absolute[] = {"JUMP_ABSOLUTE", "POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE"};
    static const char *const stores[] = {
        "STORE_FAST", "STORE_NAME",  "STORE_GLOBAL",    "STORE_DEREF",           "STORE_ATTR",          "STORE_SUBSCR",
        "POP_TOP",    "STORE_SLICE", "UNPACK_SEQUENCE", "STORE_FAST_STORE_FAST", "STORE_FAST_LOAD_FAST"};
    n_back_edges = 0;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        int op = number(opmap, edges[i]);
        if (op >= 0) {
            back_edges[n_back_edges++] = op;
        }
    }
    jumps_are_absolute = n_back_edges == 0;
    for (size_t i = 0; jumps_are_absolute && i < sizeof absolute / sizeof *absolute; i++) {
        int op = number(opmap, absolute[i]);
        if (op >= 0) {
            back_edges[n_back_edges++] = op;
        }
    }
    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
        int op = number(opmap, stores[i]);
        if (op >= 0 && op < 256) {
            is_store[op] = true;
        }
    }
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(opmap, &at, &name, &value)) {
        long op = PyLong_AsLong(value);
        const char *text = PyUnicode_AsUTF8(name);
        if (op >= 0 && op < 256 && text != NULL && strncmp(text, "CALL", 4) == 0) {
            is_call[op] = true;
        }
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (itr_table_setup(opmap) != 0) {
        return -1;
    }
#endif
    op_resume = number(opmap, "RESUME");
    op_extended_arg = number(opmap, "EXTENDED_ARG");
    if (protected_globals == NULL) {
        protected_globals = PyDict_New();
        uninterruptible = PyDict_New();
        if (protected_globals == NULL || uninterruptible == NULL || itr_may_raise_setup() != 0) {
            return -1;
        }
    }
    const char *prefix = PyUnicode_AsUTF8(stdlib);
    char *copy = prefix == NULL ? NULL : PyMem_RawMalloc(strlen(prefix) + 1);
    if (copy == NULL) {
        return -1;
    }
    strcpy(copy, prefix);
    PyMem_RawFree(stdlib_prefix);
    stdlib_prefix = copy;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(protected_list); i++) {
        if (itr_inject_protect(PyList_GET_ITEM(protected_list, i)) != 0) {
            return -1;
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

bool itr_is_protected(PyFrameObject *frame) {
    PyObject *globals = globals_of(frame);
    PyObject *key = PyLong_FromVoidPtr(globals);
    bool found = key != NULL && PyDict_GetItem(protected_globals, key) != NULL;
    Py_XDECREF(key);
    Py_DECREF(globals);
    return found;
}

/* Standard library code that is not one of the protected modules: whose callee it is decides. */
static bool is_library(PyCodeObject *code) {
    const char *file = PyUnicode_AsUTF8(code->co_filename);
    if (file == NULL) {
        PyErr_Clear();
        return false;
    }
    size_t n = strlen(stdlib_prefix);
    return n > 0 && strncmp(file, stdlib_prefix, n) == 0 && strstr(file + n, "-packages") == NULL;
}

/* Walks the stack from `frame` down: may it be cut at all? (DESIGN 4.6) Steals the reference. */
static bool stack_may_be_cut(PyFrameObject *frame, bool *result_pending, struct itr_thread *t) {
    bool above_user = true;
    bool ok = true;
    bool noted_seen = t->noted_frame == NULL;
    *result_pending = false;
    while (frame != NULL && ok) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        if (above_user) {
            if (itr_is_protected(frame)) {
                ok = false;
            } else if (!is_library(code)) {
                above_user = false;
            }
        }
        if (ok && (itr_is_finalizer(frame, code) || named(code, "__exit__") || named(code, "__aexit__") ||
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

static PyObject *bytes_of(PyCodeObject *code) {
#if PY_VERSION_HEX >= 0x030B0000
    return PyCode_GetCode(code); /* without specialisation and instrumentation */
#else
    Py_INCREF(code->co_code);
    return code->co_code;
#endif
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

/* Is anything on this frame's stack that a call has given? True when it has called something since it last took a value
 * off its stack for good; too often, which only defers. */
static bool holds_result(PyFrameObject *frame) {
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *bytes = bytes_of(code);
    int now = lasti_of(frame);
    bool held = bytes == NULL;
    for (int i = 0; bytes != NULL && i < now && i < PyBytes_GET_SIZE(bytes); i += 2) {
        unsigned char op = (unsigned char)PyBytes_AS_STRING(bytes)[i];
        held = is_call[op] || (held && !is_store[op]);
    }
    Py_XDECREF(bytes);
    Py_DECREF(code);
    PyErr_Clear();
    return held;
}

/* f(recv()): the callee's argument is a call's result, perhaps an exact call's, and still on the caller's stack. */
static bool caller_holds_result(PyFrameObject *frame) {
    PyFrameObject *back = PyFrame_GetBack(frame);
    bool held = back != NULL && holds_result(back);
    Py_XDECREF(back);
    return held;
}

static bool tracing_now(PyThreadState *tstate) { return tstate->tracing != 0; }

enum itr_fit itr_fit_position(struct itr_thread *t, PyThreadState *tstate) {
    if (atomic_load_explicit(&t->slot->exact, memory_order_relaxed) != 0 ||
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
    if ((entry && function && !caller_holds_result(frame)) || edge) {
        fit = ITR_FIT;
    } else if (entry) {
        fit = ITR_UNFIT;
    }
    bool result_pending = false;
    Py_INCREF(frame);
    if (!stack_may_be_cut(frame, &result_pending, t) || (result_pending && fit == ITR_UNFIT_CALL)) {
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
    PyCodeObject *code = PyFrame_GetCode(frame);
    int lasti = lasti_of(frame);
    bool fit = false;
    if (!call) {
        fit = is_loop_head(code, lasti);
    } else if (!caller_holds_result(frame)) {
#if PY_VERSION_HEX >= 0x030B0000
        PyObject *bytes = bytes_of(code); /* not where a generator goes on */
        fit = bytes != NULL && lasti >= 0 && lasti + 1 < PyBytes_GET_SIZE(bytes) &&
              (unsigned char)PyBytes_AS_STRING(bytes)[lasti] == op_resume &&
              ((unsigned char)PyBytes_AS_STRING(bytes)[lasti + 1] & 3) == 0;
        Py_XDECREF(bytes);
#else
        fit = lasti < 0;
#endif
    }
    Py_DECREF(code);
    if (fit) {
        bool unused = false;
        Py_INCREF(frame);
        fit = stack_may_be_cut(frame, &unused, t);
    }
    PyErr_Clear();
    return fit;
}
#endif

void itr_note_exact(struct itr_thread *t) {
#if !ITR_BY_PENDING_CALL
    t->exact_count++;
    t->noted_frame = itr_frame_now(t->tstate);
#if PY_VERSION_HEX >= 0x030B0000
    const struct frame_3_11 *raw = t->noted_frame;
    t->noted_lasti =
        raw == NULL ? -1 : (int)((const char *)raw->prev_instr - (const char *)raw->code->co_code_adaptive);
#else
    t->noted_lasti = t->tstate->frame == NULL ? -1 : lasti_of(t->tstate->frame);
#endif
#else
    (void)t; /* from 3.12 nothing is ever injected behind a call */
#endif
}
