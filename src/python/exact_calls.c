/* What a wrapper does around one of CPython's own blocking functions.
 *
 * A wrapper holds the GIL on both sides, so whatever false result the broken park made CPython's C code return is
 * thrown away here, before the eval loop or a `with` sees it, and the interrupt is raised from the call itself. A call
 * that has completed keeps its result, and the interrupt stays pending (DESIGN 4.5). */
#include "exact.h"

#include "tls_socket.h"

#include <string.h>

bool itr_row_is_suspended(const struct itr_slot *slot) {
    /* Python code inside the call (__del__, GC, a callback) has a frame of its own. The thread's own state: no GIL
     * needed. */
    return slot->tstate != NULL && itr_frame_now((PyThreadState *)(uintptr_t)slot->tstate) != slot->frame;
}

/* Python code that runs inside an exact call comes before its effect (fileno(), an opener) or can be undone (io.open
 * closes what it has opened). But wait3() and wait4() import `resource` when they have reaped the child: what is raised
 * in there loses its status; and there are libraries that print what their callbacks raise. */
static bool loses_result(uint32_t outer, const void *frame, const struct itr_thread *t) {
    /* In the same frame it is C code that calls: Connection.execute() makes a cursor and calls its execute(). */
    return (outer & (ITR_WAIT | ITR_SWALLOWS)) != 0 && frame != itr_frame_now(t->tstate);
}

void itr_exact_enter(struct itr_thread *t, const struct itr_row *row, struct itr_exact *outer) {
    struct itr_slot *slot = t->slot;
    *outer = (struct itr_exact){.exact = atomic_load_explicit(&slot->exact, memory_order_relaxed),
                                .broken = slot->broken,
                                .nudged = slot->nudged,
                                .frame = slot->frame,
                                .tstate = slot->tstate,
                                .break_errno = slot->break_errno,
                                .join_row = slot->join_row,
                                .unbreakable = slot->unbreakable,
                                .until_kept = slot->until_kept,
                                .until_ns = slot->until_ns,
                                .on_break = slot->on_break,
                                .on_break_arg = slot->on_break_arg};
    slot->broken = slot->nudged = 0;
    slot->tstate = t->tstate;
    slot->frame = itr_frame_now(t->tstate);
    slot->break_errno = 0;
    slot->join_row = slot->until_kept = false;
    slot->until_ns = 0;
    slot->unbreakable = loses_result(outer->exact, outer->frame, t) || outer->unbreakable || t->tstate->tracing != 0;
    slot->on_break = NULL;
    atomic_store_explicit(&slot->exacts, atomic_load_explicit(&slot->exacts, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    /* release: nudge() in unseen.c looks at what is above. */
    atomic_store_explicit(&slot->exact, row->classes | ITR_IN_EXACT, memory_order_release);
}

uint32_t itr_exact_leave(struct itr_thread *t, const struct itr_exact *outer) {
    struct itr_slot *slot = t->slot;
    uint32_t broken = slot->broken;
    slot->broken = outer->broken;
    slot->frame = outer->frame;
    slot->tstate = outer->tstate;
    slot->break_errno = outer->break_errno;
    slot->join_row = outer->join_row;
    slot->unbreakable = outer->unbreakable;
    slot->until_kept = outer->until_kept;
    slot->until_ns = outer->until_ns;
    slot->on_break = outer->on_break;
    slot->on_break_arg = outer->on_break_arg;
    slot->fake_clock = false;
    itr_note_exact(t);
    /* Leaving a "do not inject" state: store it, then load `pending` (DESIGN section 3). Whoever recorded before the
     * store may have looked at the old state and done nothing. (Under a mask it is unmasking that asks.) */
    atomic_store_explicit(&slot->exact, outer->exact, memory_order_seq_cst);
    if (__builtin_expect(atomic_load_explicit(&slot->nudge, memory_order_seq_cst) != ITR_NUDGE_NONE, 0)) {
        itr_api->settle(slot); /* no EINTR for what comes next */
    }
    t->nudged = slot->nudged != 0;
    slot->nudged = outer->nudged;
    if (broken == 0 && atomic_load_explicit(&slot->pending, memory_order_seq_cst) != 0 &&
        (t->redirect != NULL || atomic_load_explicit(&slot->mask, memory_order_relaxed) == ITR_MASK_NONE)) {
        itr_api->kick(t->ref);
    }
    return broken;
}

void itr_exact_completed(struct itr_thread *t) {
    atomic_store_explicit(&t->slot->committed, 0, memory_order_seq_cst);
    itr_api->kick(t->ref);
}

bool itr_deliver_here(struct itr_thread *t, bool broken) {
    itr_async_recall(t);
    if (!itr_thread_pending(t) || t->ended ||
        loses_result(atomic_load_explicit(&t->slot->exact, memory_order_relaxed), t->slot->frame, t) ||
        atomic_load_explicit(&t->slot->mask, memory_order_relaxed) >= ITR_MASK_ALL || !itr_may_raise_here(broken)) {
        /* A call that was broken for it goes on: it can be taken back again. */
        atomic_store_explicit(&t->slot->committed, 0, memory_order_seq_cst);
        return false;
    }
    return itr_raise_next(t);
}

/* self.connection.close(), or self.close() when it is the connection: libpq sends a farewell, which cannot wait on what
 * was shut down. Keeps the exception that is set. */
static void spoil(PyObject *self) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    struct itr_slot *shielded = itr_shield();
    PyObject *connection = PyObject_GetAttrString(self, "connection");
    if (connection == NULL) {
        PyErr_Clear();
        connection = self;
        Py_INCREF(connection);
    }
    PyObject *closed = PyObject_CallMethod(connection, "close", NULL);
    Py_XDECREF(closed);
    Py_DECREF(connection);
    PyErr_Clear();
    itr_unshield(shielded);
    PyErr_Restore(type, value, traceback);
}

/* ---- the common way
 * ------------------------------------------------------------------------------------------------------------- */

static PyObject *run(const struct itr_call *c, struct itr_thread *t) {
    struct itr_exact outer;
    struct itr_tls_socket tls = {NULL, false};
    bool unbreakable = false;
    for (;;) {
        itr_exact_enter(t, c->row, &outer);
        t->slot->unbreakable = t->slot->unbreakable || unbreakable;
        if (c->row->kind == ITR_KIND_TLS) {
            itr_tls_enter(&tls, c->self, t->slot);
        }
        PyObject *result = itr_call_original(c);
        if (c->row->kind == ITR_KIND_TLS) {
            itr_tls_leave(&tls);
        }
        uint32_t broken = itr_exact_leave(t, &outer);
        bool cut_short = t->nudged && itr_is_cut_short(c->row, c->self, result);
        if (broken == 0 && !cut_short) {
            return result;
        }
        if (!cut_short && !itr_is_false_result(c->row, result)) {
            itr_exact_completed(t);
            return result;
        }
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        Py_XDECREF(result);
        PyObject *connection = NULL;
        if ((c->row->classes & ITR_WRITE) != 0) {
            itr_message_here(&connection);
        }
        bool raised = itr_deliver_here(t, true);
        if (raised && (c->row->classes & ITR_SPOILS) != 0) {
            spoil(c->self);
        } else if (raised && connection != NULL) {
            spoil(connection);
        }
        Py_XDECREF(connection);
        if (raised) {
            return NULL;
        }
        unbreakable = itr_thread_pending(t); /* it may not be raised here: wait on */
    }
}

static PyObject *start(const struct itr_call *c) {
    PyObject *function = itr_argument(c, 0, "function");
    if (function == NULL || !PyCallable_Check(function)) {
        return itr_call_original(c);
    }
    PyObject *runner = itr_runner_new(function);
    struct itr_call own = *c;
    PyObject *result = NULL;
    if (runner == NULL || (c->row->convention & METH_VARARGS) == 0) {
        Py_XDECREF(runner);
        return runner == NULL ? NULL : itr_call_original(c);
    }
    Py_ssize_t n = PyTuple_GET_SIZE(c->args);
    own.args = PyTuple_New(n);
    own.kwargs = c->kwargs == NULL ? NULL : PyDict_Copy(c->kwargs);
    if (own.args != NULL && (c->kwargs == NULL || own.kwargs != NULL)) {
        for (Py_ssize_t i = 0; i < n; i++) {
            PyObject *item = i == 0 ? runner : PyTuple_GET_ITEM(c->args, i);
            Py_INCREF(item);
            PyTuple_SET_ITEM(own.args, i, item);
        }
        if (n > 0 || PyDict_SetItemString(own.kwargs, "function", runner) == 0) {
            result = itr_call_original(&own);
        }
    }
    Py_XDECREF(own.args);
    Py_XDECREF(own.kwargs);
    Py_DECREF(runner);
    return result;
}

static bool forks(const struct itr_row *row) {
    return strcmp(row->method, "fork") == 0 || strcmp(row->method, "forkpty") == 0;
}

/* A vfork child runs on its parent's TLS, and a forked one is a copy of it: nothing is broken in these. The row names
 * no classes, so every call inside passes through. Nor may anything be raised in Python code that runs inside: what
 * fork()'s hooks raise is printed and ignored, and logging's lock, which one of them takes, is then released without
 * being held. */
static PyObject *effect(const struct itr_call *c, struct itr_thread *t) {
    struct itr_exact outer;
    itr_async_recall(t);                                    /* behind the call, it would lose the result */
    bool process = forks(c->row) && itr_must_finish_here(); /* multiprocessing's start() */
    itr_api->mask_push(t->slot, ITR_MASK_ALL);
    itr_exact_enter(t, c->row, &outer);
    PyObject *result = itr_call_original(c);
    if (process && result != NULL && PyLong_Check(result) && PyLong_AsLong(result) == 0) {
        itr_discard(t); /* the parent raises what is pending; the child's program has just begun */
    }
    itr_api->mask_pop(t->slot, ITR_MASK_ALL);
    itr_exact_leave(t, &outer);
    return result;
}

/* From 3.15 on os.fork() counts the process's threads, to warn of them, before any hook has run. */
static PyObject *without_monitor(const struct itr_call *c, struct itr_thread *t) {
    Py_BEGIN_ALLOW_THREADS itr_api->monitor_stop();
    Py_END_ALLOW_THREADS PyObject *result = t == NULL ? itr_call_original(c) : effect(c, t);
    itr_api->monitor_allow();
    return result;
}

/* open(fd) opens nothing: who calls it counts on the descriptor's having an owner from here on. */
static bool wraps_descriptor(const struct itr_call *c) {
    if ((c->row->classes & ITR_OPEN) == 0) {
        return false;
    }
    PyObject *file = itr_argument(c, 0, "file");
    return file != NULL && PyLong_Check(file);
}

/* A module is complete when it has been executed, which importlib does even with those that were when they were
 * created. */
static PyObject *load(const struct itr_call *c) {
    PyObject *result = itr_call_original(c);
    itr_api->bind(); /* cheap when nothing new was loaded */
    PyObject *module = c->row->method[0] == 'e' ? itr_argument(c, 0, "mod") : NULL; /* exec_dynamic(mod) */
    if (result != NULL && module != NULL) {
        itr_exact_loaded(module);
    }
    return result;
}

/* The wrappers are in functions that all interpreters share; what they need is the main one's. */
PyObject *itr_dispatch(const struct itr_call *c) {
    if (c->row->kind == ITR_KIND_START || c->row->kind == ITR_KIND_LOAD) {
        return !itr_in_main_interpreter() ? itr_call_original(c) : c->row->kind == ITR_KIND_START ? start(c) : load(c);
    }
    struct itr_thread *t = itr_thread_current(); /* NULL in another interpreter */
    if (c->row->kind == ITR_KIND_EFFECT && forks(c->row)) {
        return without_monitor(c, t);
    }
    if (t == NULL) {
        return itr_call_original(c);
    }
    switch (c->row->kind) {
    case ITR_KIND_LOCK:
    case ITR_KIND_ENTER:
        return itr_dispatch_lock(c, t);
    default:
        break;
    }
    if (c->row->kind == ITR_KIND_EFFECT || wraps_descriptor(c)) {
        return effect(c, t);
    }
    if ((itr_thread_pending(t) || t->armed != NULL) && itr_deliver_here(t, false)) {
        return NULL;
    }
    switch (c->row->kind) {
    case ITR_KIND_QUEUE:
        return itr_dispatch_queue(c, t);
    case ITR_KIND_JOIN:
        return itr_dispatch_join(c, t);
    default:
        return run(c, t);
    }
}
