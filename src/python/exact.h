/* Rows of exact calls, between the table (exact_table.c) and the wrappers' work (exact_calls.c, exact_locks.c). */
#ifndef ITR_EXACT_H
#define ITR_EXACT_H

#include "core.h"

enum itr_exact_kind {
    ITR_KIND_PARK,
    ITR_KIND_EMPTY,
    ITR_KIND_NUMBER,
    ITR_KIND_NONE,
    ITR_KIND_LOCK,
    ITR_KIND_ENTER,
    ITR_KIND_QUEUE,
    ITR_KIND_JOIN,
    ITR_KIND_TLS,
    ITR_KIND_EFFECT,
    ITR_KIND_START,
    ITR_KIND_LOAD,
    ITR_KIND_CLIENT /* client_calls.def */
};

struct itr_row {
    const char *module, *type, *method;
    enum itr_exact_kind kind;
    uint32_t classes;
    int convention;   /* METH_*, as the interpreter at hand has it */
    PyMethodDef *def; /* NULL: not swapped */
    PyCFunction original;
    PyWrapperDescrObject
        *init; /* "__init__": no PyMethodDef, but the slot's wrapper, and `own` for the rest to look at */
    PyMethodDef own;
    PyObject *builtin;       /* a module's function: its hash changes with the swap */
    const char *trouble;     /* why it is not swapped */
    struct itr_row *acquire; /* ENTER: the row that takes arguments */
};

/* One call, as it came in. */
struct itr_call {
    struct itr_row *row;
    PyObject *self;
    PyTypeObject *defining; /* METH_METHOD */
    PyObject *args;         /* METH_VARARGS: the tuple; METH_O: the argument */
    PyObject *kwargs;
    PyObject *const *vector; /* METH_FASTCALL */
    Py_ssize_t n;
    PyObject *names;
};

/* Calls the original with the arguments as they came, or with positional ones of ours. */
PyObject *itr_call_original(const struct itr_call *c);
PyObject *itr_call_with(const struct itr_call *c, struct itr_row *row, PyObject *const *args, Py_ssize_t n);
/* Argument `at`, or by name; NULL (borrowed, no exception): not given. */
PyObject *itr_argument(const struct itr_call *c, Py_ssize_t at, const char *name);
Py_ssize_t itr_argument_count(const struct itr_call *c);

/* `module` has been loaded: swap the calls of both tables that are in it. */
void itr_exact_loaded(PyObject *module);

PyObject *itr_dispatch(const struct itr_call *c);
PyObject *itr_dispatch_lock(const struct itr_call *c, struct itr_thread *t);
PyObject *itr_dispatch_queue(const struct itr_call *c, struct itr_thread *t);
PyObject *itr_dispatch_join(const struct itr_call *c, struct itr_thread *t);

/* ---- entering and leaving
 * --------------------------------------------------------------------------------------------------- */

struct itr_exact {
    uint32_t exact, broken, nudged;
    const void *frame, *tstate;
    int break_errno;
    bool join_row, unbreakable, until_kept;
    int64_t until_ns;
    void (*on_break)(void *);
    void *on_break_arg;
};
void itr_exact_enter(struct itr_thread *t, const struct itr_row *row, struct itr_exact *outer);
/* How often the call was broken; t->nudged: whether a wake-up ended a wait of its that nobody saw (unseen.c). Asks for
 * the injector when something is pending. */
uint32_t itr_exact_leave(struct itr_thread *t, const struct itr_exact *outer);

/* Something is pending: raise it here, unless a mask or the place forbids it. True: an exception is set. `broken`: the
 * call has waited, and was woken for it; false: it has not begun. */
bool itr_deliver_here(struct itr_thread *t, bool broken);
/* What a call that was broken has come back with (NULL: the exception that is set): is it what the broken libc call
 * made of it, or its own? */
bool itr_is_false_result(const struct itr_row *row, PyObject *result);
/* A wake-up ended a wait of the call's that nobody saw: is this all that has come of it? */
bool itr_is_cut_short(const struct itr_row *row, PyObject *self, PyObject *result);
/* A call that was broken has its own result after all. The interrupt comes at the next chance, or is taken back. */
void itr_exact_completed(struct itr_thread *t);

#endif
