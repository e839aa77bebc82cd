/* Up to 3.11: a thread that is never seen at a fit instruction looks for one itself.
 *
 * A C trace function is called in the thread at each call, at each line and behind each jump back. There nothing is
 * lost: at a loop's head only iterators are on the stack, and the source's own `try` covers it. It is there only while
 * an interrupt is pending, and only when nobody else traces the thread. */
#include "core.h"

#if !ITR_BY_PENDING_CALL

#define MOST_EVENTS 20000 /* then the monitor asks again, later */

static int on_event(PyObject *unused, PyFrameObject *frame, int what, PyObject *arg) {
    (void)unused;
    (void)arg;
    struct itr_thread *t = itr_thread_current();
    if (t == NULL || !itr_thread_pending(t) || t->armed != NULL || t->ended || t->redirect != NULL ||
        atomic_load_explicit(&t->slot->mask, memory_order_relaxed) != ITR_MASK_NONE ||
        ++t->trace_events > MOST_EVENTS) {
        itr_trace_stop(PyThreadState_Get()); /* leaving a mask asks anew */
        return 0;
    }
    if ((what != PyTrace_CALL && what != PyTrace_LINE) ||
        atomic_load_explicit(&t->slot->exact, memory_order_relaxed) != 0 ||
        !itr_fit_event(t, frame, what == PyTrace_CALL)) {
        return 0;
    }
    itr_trace_stop(PyThreadState_Get());
    return itr_raise_next(t) ? -1 : 0;
}

bool itr_trace_start(struct itr_thread *t, PyThreadState *tstate) {
    if (tstate->c_tracefunc == on_event) {
        return true;
    }
    if (tstate->c_tracefunc != NULL) {
        return false;
    }
    /* Inside an exact call too: it may be where it always is when somebody looks. */
    if (t->user_masks[ITR_MASK_ALL] != 0 || t->user_masks[ITR_MASK_BLOCKING] != 0) {
        return true; /* leaving that asks anew */
    }
    t->trace_events = 0;
    if (_PyEval_SetTrace(tstate, on_event, NULL) != 0) {
        PyErr_Clear(); /* an audit hook is against it */
        return false;
    }
    return true;
}

void itr_trace_stop(PyThreadState *tstate) {
    if (tstate != NULL && tstate->c_tracefunc == on_event && _PyEval_SetTrace(tstate, NULL, NULL) != 0) {
        PyErr_Clear();
    }
}

#else
bool itr_trace_start(struct itr_thread *t, PyThreadState *tstate) {
    (void)t;
    (void)tstate;
    return false;
}
void itr_trace_stop(PyThreadState *tstate) { (void)tstate; }
#endif
