/* Signals that are the main thread's, and that another thread takes.
 *
 * The kernel wakes the main thread for a signal that is sent to the process, but it is handled by whichever thread
 * comes out of the kernel first. Without us that is nearly always the main thread; a thread that our signal wakes at
 * that moment may be faster. CPython's handler then runs there and leaves a note for the main thread, whose call goes
 * on waiting all the same: a Ctrl-C that nobody heeds. So whoever was woken looks for such a note, and wakes the main
 * thread if there is one. When that already runs, or has seen it, nothing comes of it. */
#define Py_BUILD_CORE_MODULE 1 /* up to 3.12 the note is in _PyRuntime */
#include "core.h"

#if PY_VERSION_HEX >= 0x030D0000
#define SIGNALS_PENDING 2u /* _PY_SIGNALS_PENDING_BIT */
static _Atomic(PyThreadState *) main_tstate;

static bool is_noted(void) {
    PyThreadState *tstate = atomic_load_explicit(&main_tstate, memory_order_acquire);
    return tstate != NULL && (__atomic_load_n(&tstate->eval_breaker, __ATOMIC_RELAXED) & SIGNALS_PENDING) != 0;
}
#else
#include <internal/pycore_runtime.h>

static bool is_noted(void) { return __atomic_load_n(&_PyRuntime.ceval.signals_pending._value, __ATOMIC_RELAXED) != 0; }
#endif

/* Of a thread that a signal has woken, without the GIL. */
static void look_for_note(void) {
    if (is_noted()) {
        itr_api->wake_main();
    }
}

void itr_main_signals_setup(void) {
#if PY_VERSION_HEX >= 0x030D0000
    unsigned long main = itr_main_ident(); /* before: it may run Python code */
    PyThreadState *tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    while (tstate != NULL && tstate->thread_id != main) {
        tstate = PyThreadState_Next(tstate);
    }
    atomic_store_explicit(&main_tstate, tstate, memory_order_release);
#endif
    itr_api->on_woken(look_for_note);
}

/* The forking thread is the child's main thread; its thread state is the only one that is left. */
void itr_main_signals_after_fork(void) {
#if PY_VERSION_HEX >= 0x030D0000
    if (atomic_load_explicit(&main_tstate, memory_order_relaxed) != NULL) {
        atomic_store_explicit(&main_tstate, PyThreadState_Get(), memory_order_release);
    }
#endif
}

void itr_main_signals_stop(void) {
    itr_api->on_woken(NULL);
#if PY_VERSION_HEX >= 0x030D0000
    atomic_store_explicit(&main_tstate, NULL, memory_order_release);
#endif
}
