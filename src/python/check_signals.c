/* PyErr_CheckSignals() in worker threads.
 *
 * Extension modules that wait or compute for long ask it now and then, and after EINTR, whether to go on (pyzmq,
 * psycopg 3, NumPy). Off the main thread CPython answers "go on" up to 3.14. Their calls are bound to this function
 * instead, which asks CPython first and then raises the thread's pending interrupt: they have said that here they can
 * take an exception. */
#include "exact.h"

#include <dlfcn.h>

static int (*real_check_signals)(void);

static int check_signals(void) {
    int result = real_check_signals();
    if (result != 0) {
        return result;
    }
    struct itr_thread *t = itr_thread_attached();
    if (t == NULL || !(itr_thread_pending(t) || t->armed != NULL) || PyErr_Occurred() != NULL) {
        return 0;
    }
    return itr_deliver_here(t, true) ? -1 : 0;
}

void itr_check_signals_bind(void) {
    if (real_check_signals == NULL) {
        real_check_signals = PyErr_CheckSignals; /* through our own slot, which is bound to nothing else yet */
        itr_api->bind_too("PyErr_CheckSignals", (void (*)(void))check_signals, (void (*)(void))real_check_signals);
    }
}
