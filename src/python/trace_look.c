/* Up to 3.11: the thread itself looks for a fit instruction.
 *
 * A C trace function is called in the thread at each call, at each line and behind each jump back. There nothing is
 * lost: at a loop's head only iterators are on the stack, and the source's own `try` covers it. It is there only while
 * an interrupt is pending, in front of whatever else traces the thread (a debugger, coverage), which goes on seeing
 * everything. */
#define Py_BUILD_CORE_MODULE 1 /* for tracing_possible (3.9) */
#include "clock.h"
#include "core.h"

#if PY_VERSION_HEX < 0x030A0000
#include <internal/pycore_interp.h>
#endif

#if !ITR_BY_PENDING_CALL

#define MOST_EVENTS 20000     /* then the monitor asks again, later */
#define LONG_NS 20000000      /* of the thread's own time */
#define STARVED_NS 1000000000 /* of everybody's: it waits where nobody can be told of it */

/* The interpreter forgets what a line event raised when it reports an opcode event at the same place: the latter raises
 * then. */
static bool is_last_event(PyFrameObject *frame, int what) {
    if (what == PyTrace_CALL) {
        return true;
    }
    PyObject *flag = PyObject_GetAttrString((PyObject *)frame, "f_trace_opcodes");
    bool opcodes = flag == Py_True;
    Py_XDECREF(flag);
    PyErr_Clear();
    return opcodes == (what == PyTrace_OPCODE);
}

static int on_event(PyObject *object, PyFrameObject *frame, int what, PyObject *arg) {
    struct itr_thread *t = itr_thread_current();
    PyThreadState *tstate = PyThreadState_Get();
    if (t == NULL) {
        return 0;
    }
    if (t->traced_by != NULL) {
        int result = t->traced_by(object, frame, what, arg);
        if (result != 0 || tstate->c_tracefunc != on_event) {
            return result; /* it failed, or has put something else in our common place */
        }
    }
    if (!itr_thread_pending(t) || t->armed != NULL || t->ended || t->redirect != NULL ||
        t->user_masks[ITR_MASK_ALL] != 0 || t->user_masks[ITR_MASK_BLOCKING] != 0 || ++t->trace_events > MOST_EVENTS) {
        itr_trace_stop(t); /* leaving a mask asks anew */
        return 0;
    }
    if ((what != PyTrace_CALL && what != PyTrace_LINE && what != PyTrace_OPCODE) ||
        atomic_load_explicit(&t->slot->exact, memory_order_relaxed) != 0 ||
        atomic_load_explicit(&t->slot->mask, memory_order_relaxed) != ITR_MASK_NONE ||
        !itr_fit_event(t, frame, what == PyTrace_CALL) || !is_last_event(frame, what)) {
        return 0;
    }
    itr_trace_stop(t);
    return itr_raise_next(t) ? -1 : 0;
}

/* What _PyEval_SetTrace() does when the traced object stays (it is what sys.gettrace() shows). That one asks the audit
 * hooks first: Python code, in the middle of which the thread may end, or set another function. */
static void set(PyThreadState *tstate, Py_tracefunc function) {
#if PY_VERSION_HEX < 0x030A0000
    tstate->interp->ceval.tracing_possible += (function != NULL) - (tstate->c_tracefunc != NULL);
#endif
    tstate->c_tracefunc = function;
    bool traced = function != NULL || tstate->c_profilefunc != NULL;
#if PY_VERSION_HEX < 0x030A0000
    tstate->use_tracing = traced;
#elif PY_VERSION_HEX < 0x030B0000
    tstate->cframe->use_tracing = traced;
#else
    tstate->cframe->use_tracing = traced && tstate->tracing == 0 ? 255 : 0;
#endif
}

bool itr_trace_allowed(void) {
    struct itr_slot *shielded = itr_shield();
    bool allowed = PySys_Audit("sys.settrace", NULL) == 0;
    PyErr_Clear();
    itr_unshield(shielded);
    return allowed;
}

bool itr_trace_is_on(const struct itr_thread *t, const PyThreadState *tstate) {
    /* Inside an exact call too: it may be where it always is when somebody looks. Leaving a mask asks anew. */
    return tstate->c_tracefunc == on_event || t->user_masks[ITR_MASK_ALL] != 0 || t->user_masks[ITR_MASK_BLOCKING] != 0;
}

/* How long the thread has been on a processor, 0 when that is not to be had: on a busy machine it may not run for long,
 * and no event can come meanwhile. */
static int64_t own_ns(const struct itr_thread *t) {
    clockid_t clock;
    struct timespec now;
    bool known = pthread_getcpuclockid((pthread_t)t->ident, &clock) == 0 && clock_gettime(clock, &now) == 0;
    return known ? (int64_t)now.tv_sec * 1000000000 + now.tv_nsec : 0;
}

static void begin_to_wait(struct itr_thread *t) {
    t->traced_since_ns = now_ns();
    t->traced_since_own_ns = own_ns(t);
}

void itr_trace_start(struct itr_thread *t, PyThreadState *tstate) {
    t->tstate = tstate;
    t->trace_events = 0;
    t->trace_events_seen = 0;
    begin_to_wait(t);
    t->traced_by = tstate->c_tracefunc;
    itr_unsignal(); /* whoever took something back: it would go no farther */
    set(tstate, on_event);
}

void itr_trace_stop(struct itr_thread *t) {
    if (t->tstate != NULL && t->tstate->c_tracefunc == on_event) {
        set(t->tstate, t->traced_by);
    }
}

/* No event for so long: there are loops without any, and it may have come into one only after it had begun to look. */
bool itr_trace_in_vain(struct itr_thread *t, const PyThreadState *tstate) {
    if (t->tstate != tstate || tstate->c_tracefunc != on_event) {
        return false;
    }
    if (t->trace_events != t->trace_events_seen) {
        t->trace_events_seen = t->trace_events;
        begin_to_wait(t);
    }
    return own_ns(t) - t->traced_since_own_ns > LONG_NS || now_ns() - t->traced_since_ns > STARVED_NS;
}

#else
void itr_trace_stop(struct itr_thread *t) { (void)t; }
#endif
