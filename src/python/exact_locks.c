/* Locks, SimpleQueue and Thread.join.
 *
 * Only a timed wait may be ended early: an untimed one that fails corrupts what waits for it, and a success without the
 * lock is worse (cpython_blocking, table 3.1). So an unbounded acquire() becomes a very long bounded one, tried without
 * waiting first. False then means broken, or that the very long time has passed: once more. */
#include "clock.h"
#include "exact.h"

#include <string.h>

#define VERY_LONG 4000000.0 /* seconds; every version's TIMEOUT_MAX is larger */
#define FOR_EVER 9e9        /* seconds; with the time now they are no longer to be had in nanoseconds */

struct bounds {
    bool waits;   /* blocking, with no time-out or a positive one */
    bool bounded; /* it has a time-out */
    int64_t deadline;
};

/* What is left, or the first very long part of it. */
static PyObject *seconds_left(const struct bounds *b) {
    double left = b->bounded ? (double)(b->deadline - now_ns()) / 1e9 : VERY_LONG;
    return PyFloat_FromDouble(left < 0.0 ? 0.0 : left > VERY_LONG ? VERY_LONG : left);
}

static void set_bounds(struct bounds *b, double seconds) {
    *b = (struct bounds){true, seconds <= FOR_EVER, 0};
    b->deadline = b->bounded ? now_ns() + (int64_t)(seconds * 1e9) : 0;
}

static bool is_semlock(const struct itr_row *row) { return strcmp(row->module, "_multiprocessing") == 0; }

/* Longer ones the original refuses. */
static double longest(const struct itr_row *row) {
    static double timeout_max;
    if (is_semlock(row)) {
        return 1e17; /* it does not: beyond that they may not fit what it puts them in */
    }
    if (timeout_max == 0.0) {
        PyObject *module = PyImport_ImportModule("_thread");
        PyObject *value = module == NULL ? NULL : PyObject_GetAttrString(module, "TIMEOUT_MAX");
        timeout_max = value == NULL ? VERY_LONG : PyFloat_AsDouble(value);
        Py_XDECREF(module);
        Py_XDECREF(value);
        PyErr_Clear();
    }
    return timeout_max;
}

/* A time-out as the original would read it: it may be any object that gives an integer, for some any that gives a
 * float. False: leave it to the original, which knows its own errors. */
static bool read_seconds(const struct itr_row *row, PyObject *timeout, double *seconds) {
    bool any = is_semlock(row) || (PY_VERSION_HEX >= 0x030F0000 && !PyIndex_Check(timeout));
    *seconds = PyFloat_Check(timeout) || any ? PyFloat_AsDouble(timeout) : (double)PyLong_AsLongLong(timeout);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return !(*seconds > longest(row)) && *seconds == *seconds;
}

/* acquire(blocking=True, timeout=-1) and its like. False: leave it to the original. */
static bool parse(const struct itr_call *c, const char *first, struct bounds *b) {
    PyObject *blocking = itr_argument(c, 0, first);
    PyObject *timeout = itr_argument(c, 1, "timeout");
    Py_ssize_t known = (blocking != NULL) + (timeout != NULL);
    bool is_lock = strcmp(c->row->module, "_thread") == 0;
    *b = (struct bounds){true, false, 0};
    if (known != itr_argument_count(c)) {
        return false;
    }
    if (blocking != NULL) {
        int overflow = 0; /* up to 3.11 it is an int of C's */
        long truth = PyLong_Check(blocking) ? PyLong_AsLongAndOverflow(blocking, &overflow) : 0;
        if (truth == 0 || truth != (int)truth || overflow != 0) {
            return false;
        }
    }
    if (timeout == NULL || timeout == Py_None) {
        return timeout == NULL || !is_lock;
    }
    double seconds;
    if (!read_seconds(c->row, timeout, &seconds)) {
        return false;
    }
    if (seconds == -1.0) {
        return is_lock; /* no time-out */
    }
    if (!(seconds > 0.0)) {
        return false;
    }
    set_bounds(b, seconds);
    return true;
}

static PyObject *bounded_wait(const struct itr_call *c, struct itr_row *row, const struct bounds *b) {
    PyObject *args[2] = {Py_True, seconds_left(b)};
    if (args[1] == NULL) {
        return NULL;
    }
    PyObject *result = itr_call_with(c, row, args, 2);
    Py_DECREF(args[1]);
    return result;
}

/* acquire(False). This is all that an uncontended lock pays for, so it makes no tuple each time. */
static PyObject *try_at_once(const struct itr_call *c, struct itr_row *row) {
    static PyObject *no_wait; /* (False,), made under the GIL or, twice at worst, by two threads without */
    PyObject *no[1] = {Py_False};
    if ((row->convention & METH_VARARGS) == 0) {
        return itr_call_with(c, row, no, 1);
    }
    if (no_wait == NULL && (no_wait = PyTuple_Pack(1, Py_False)) == NULL) {
        return NULL;
    }
    return itr_call_original(&(struct itr_call){.row = row, .self = c->self, .args = no_wait});
}

PyObject *itr_dispatch_lock(const struct itr_call *c, struct itr_thread *t) {
    struct itr_row *row = c->row->acquire;
    struct bounds b = {true, false, 0};
    /* Up to 3.14 __enter__() takes what acquire() does. */
    if ((c->row->kind == ITR_KIND_LOCK || itr_argument_count(c) != 0) &&
        !parse(c, is_semlock(c->row) ? "block" : "blocking", &b)) {
        return itr_call_original(c);
    }
    if ((itr_thread_pending(t) || t->armed != NULL) && itr_deliver_here(t, false)) {
        return NULL;
    }
    PyObject *result = try_at_once(c, row);
    if (result == NULL || result == Py_True) {
        itr_note_exact(t);
        return result;
    }
    bool unbreakable = itr_must_finish_here(); /* then it is not woken in vain, and the interrupt can be taken back */
    for (;;) {
        Py_DECREF(result);
        struct itr_exact outer;
        itr_exact_enter(t, row, &outer);
        t->slot->unbreakable = t->slot->unbreakable || unbreakable;
        result = bounded_wait(c, row, &b);
        uint32_t broken = itr_exact_leave(t, &outer);
        if (result == NULL || result == Py_True) {
            if (broken != 0) {
                itr_exact_completed(t);
            }
            return result;
        }
        if (broken != 0 && itr_deliver_here(t, true)) {
            Py_DECREF(result);
            return NULL;
        }
        unbreakable = unbreakable || (broken != 0 && itr_thread_pending(t));
        if (b.bounded && now_ns() >= b.deadline) {
            return result;
        }
    }
}

/* Up to 3.12 a get() that was woken for an item that another consumer has taken, and finds its time over then, computes
 * a negative time-out: it waits for ever, untimed. So it is given a time that does not run out, and the shim ends its
 * waits. Not before one wait has shown that they go through the shim. */
static PyObject *queue_wait(const struct itr_call *c, struct itr_thread *t, const struct bounds *b) {
#if PY_VERSION_HEX < 0x030D0000
    static atomic_bool kept;
    static const struct bounds endless = {true, false, 0};
    if (b->bounded) {
        t->slot->until_ns = b->deadline;
        PyObject *result = bounded_wait(c, c->row, atomic_load_explicit(&kept, memory_order_relaxed) ? &endless : b);
        if (t->slot->until_kept) {
            atomic_store_explicit(&kept, true, memory_order_relaxed);
        }
        return result;
    }
#else
    (void)t;
#endif
    return bounded_wait(c, c->row, b);
}

/* get(False). An item may have come together with the interrupt: an executor's that has woken this thread for it counts
 * on the thread. */
static PyObject *get_at_once(const struct itr_call *c) {
    PyObject *no[1] = {Py_False};
    return itr_call_with(c, c->row, no, 1);
}

PyObject *itr_dispatch_queue(const struct itr_call *c, struct itr_thread *t) {
    static PyObject *empty;
    struct bounds b;
    if (empty == NULL) {
        PyObject *module = PyImport_ImportModule("_queue");
        empty = module == NULL ? NULL : PyObject_GetAttrString(module, "Empty");
        Py_XDECREF(module);
        if (empty == NULL) {
            return NULL;
        }
    }
    if (!parse(c, "block", &b)) {
        return itr_call_original(c);
    }
    bool unbreakable = false;
    for (;;) {
        struct itr_exact outer;
        itr_exact_enter(t, c->row, &outer);
        t->slot->unbreakable = t->slot->unbreakable || unbreakable;
        PyObject *result = queue_wait(c, t, &b);
        uint32_t broken = itr_exact_leave(t, &outer);
        if (result != NULL || !PyErr_ExceptionMatches(empty)) {
            if (broken != 0) {
                itr_exact_completed(t);
            }
            return result;
        }
        if (broken != 0) {
            PyErr_Clear();
            result = get_at_once(c);
            if (result != NULL || !PyErr_ExceptionMatches(empty)) {
                itr_exact_completed(t);
                return result;
            }
            PyErr_Clear();
            if (itr_deliver_here(t, true)) {
                return NULL;
            }
            PyErr_SetNone(empty);
        }
        unbreakable = unbreakable || (broken != 0 && itr_thread_pending(t));
        if (b.bounded && now_ns() >= b.deadline) {
            return NULL;
        }
        PyErr_Clear();
    }
}

/* _ThreadHandle.join(timeout=-1) gives None whether or not the thread has ended. */
PyObject *itr_dispatch_join(const struct itr_call *c, struct itr_thread *t) {
    PyObject *timeout = itr_argument(c, 0, "timeout");
    struct bounds b = {true, false, 0};
    if (timeout != NULL && timeout != Py_None) {
        double seconds;
        if (!read_seconds(c->row, timeout, &seconds) || seconds == 0.0) {
            return itr_call_original(c);
        }
        if (seconds > 0.0) { /* a negative one is none */
            set_bounds(&b, seconds);
        }
    }
    bool unbreakable = false;
    for (;;) {
        PyObject *arg = seconds_left(&b);
        if (arg == NULL) {
            return NULL;
        }
        struct itr_exact outer;
        itr_exact_enter(t, c->row, &outer);
        t->slot->join_row = true;
        t->slot->unbreakable = t->slot->unbreakable || unbreakable;
        PyObject *result = itr_call_with(c, c->row, &arg, 1);
        uint32_t broken = itr_exact_leave(t, &outer);
        Py_DECREF(arg);
        if (result == NULL) {
            return NULL;
        }
        PyObject *done = PyObject_CallMethod(c->self, "is_done", NULL);
        int ended = done == NULL ? -1 : PyObject_IsTrue(done);
        Py_XDECREF(done);
        if (ended != 0 || (broken == 0 && b.bounded && now_ns() >= b.deadline)) {
            if (ended > 0 && broken != 0) {
                itr_exact_completed(t);
            }
            if (ended < 0) {
                Py_CLEAR(result);
            }
            return result;
        }
        Py_DECREF(result);
        if (broken != 0 && itr_deliver_here(t, true)) {
            return NULL;
        }
        unbreakable = unbreakable || (broken != 0 && itr_thread_pending(t));
        if (b.bounded && now_ns() >= b.deadline) {
            Py_RETURN_NONE;
        }
    }
}
