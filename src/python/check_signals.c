/* PyErr_CheckSignals() in worker threads.
 *
 * Extension modules that wait or compute for long ask it now and then, and after EINTR, whether to go on (pyzmq,
 * psycopg 3, NumPy). Off the main thread CPython answers "go on" up to 3.14. Their calls are bound to this function
 * instead, which asks CPython first and then raises the thread's pending interrupt: they have said that here they can
 * take an exception. But some ask behind every call, when they have a message in their hands that an exception loses
 * (pyzmq): those have not been told EINTR, and do not ask again and again. */
#include "exact.h"

static int (*real_check_signals)(void);

#define COMPUTES_NS 20000000

/* Can it be interrupted without a loss? Its wait has been broken; or it has asked from this very call for so long,
 * without waiting, that it computes: Python code would have been interrupted in between. */
static bool has_nothing(struct itr_thread *t) {
    if (atomic_load_explicit(&t->slot->foreign_done, memory_order_relaxed) != 0) {
        return true;
    }
    const void *frame = itr_frame_now(t->tstate);
    uint64_t parks = atomic_load_explicit(&t->slot->parks, memory_order_relaxed);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (t->asked_frame != frame || t->asked_parks != parks) {
        t->asked_frame = frame;
        t->asked_parks = parks;
        t->asked_since_ns = ns;
        return false;
    }
    return ns - t->asked_since_ns > COMPUTES_NS;
}

static int check_signals(void) {
    int result = real_check_signals();
    if (result != 0) {
        return result;
    }
    struct itr_thread *t = itr_thread_attached();
    if (t == NULL || !(itr_thread_pending(t) || t->armed != NULL) || PyErr_Occurred() != NULL ||
        itr_thread_current() != t || !has_nothing(t)) {
        return 0;
    }
    t->asked_frame = NULL;
    return itr_deliver_here(t, true) ? -1 : 0;
}

void itr_check_signals_bind(void) {
    if (real_check_signals == NULL) {
        real_check_signals = PyErr_CheckSignals; /* through our own slot, which is bound to nothing else yet */
        itr_api->bind_too("PyErr_CheckSignals", (void (*)(void))check_signals, (void (*)(void))real_check_signals);
    }
}
