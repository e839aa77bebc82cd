/* Up to 3.11: takes back what PyThreadState_SetAsyncExc() leaves behind.
 *
 * It tells all threads to look for an exception, also when it takes one back, and only one that is raised ends that.
 * They look at each check for nothing. On 3.11 a thread that is traced looks, begins the function's first instruction
 * anew, looks again, and so on for ever (in CPython itself: whoever arms an exception and takes it back hangs a
 * debugger). */
#define Py_BUILD_CORE_MODULE 1 /* for the flag */
#include "core.h"

#if !ITR_BY_PENDING_CALL

#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>

void itr_unsignal(void) {
    PyInterpreterState *main = PyInterpreterState_Main();
    struct _ceval_state *eval = &main->ceval;
    /* Laid out as the headers said? */
    if (eval->recursion_limit != Py_GetRecursionLimit() || eval->pending.async_exc != 1) {
        return;
    }
    for (PyThreadState *tstate = PyInterpreterState_ThreadHead(main); tstate != NULL;
         tstate = PyThreadState_Next(tstate)) {
        if (tstate->async_exc != NULL) {
            return; /* there is something to find */
        }
    }
    eval->pending.async_exc = 0;
    /* The others who want to be looked for set theirs, and then this one. So it is not lost: they are looked at last.
     */
    __atomic_store_n(&eval->eval_breaker._value, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&eval->gil_drop_request._value, __ATOMIC_SEQ_CST) != 0 ||
        __atomic_load_n(&_PyRuntime.ceval.signals_pending._value, __ATOMIC_SEQ_CST) != 0 ||
        __atomic_load_n(&eval->pending.calls_to_do._value, __ATOMIC_SEQ_CST) != 0) {
        __atomic_store_n(&eval->eval_breaker._value, 1, __ATOMIC_SEQ_CST);
    }
}

#endif
