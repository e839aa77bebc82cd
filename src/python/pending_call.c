/* Injecting into a thread that runs Python code, from 3.12: a pending call.
 *
 * It runs in whichever thread comes to an eval check first. In the target it looks where it stands and raises there, or
 * declines and asks again at once for the next check; in any other thread it is dropped, and the monitor asks again.
 * The queue needs no GIL. */
#include "ask.h"
#include "clock.h"
#include "core.h"

#include <dlfcn.h>

#if ITR_BY_PENDING_CALL

#define LOOKS_AT_ONE_PLACE 500
#define DRAIN_MOMENTS 100000     /* 5 s and more: somebody else's pending call blocks */
#define LOOKS_AT_A_TRACER 100000 /* each instruction of what it traces may come to the same frame */
#define LOOKS_IN_VAIN 200        /* ... and as long as this, before there is a pause */
#define LOOKED_NS 2500000
#define PAUSE_NS 10000000

static const char *mode = "off: not set up";
static PyInterpreterState *interpreter;

/* Nothing is asked: `stopped` for good, `paused` (an ident) until that thread interrupts somebody. */
static _Atomic int stopped;
static _Atomic unsigned long paused;
/* Pending calls that were added and are not over. */
static _Atomic int in_queue;

const char *itr_async_mode(void) { return mode; }

/* 3.12: int (*)(PyInterpreterState *, int (*)(void *), void *, int mainthreadonly); 3.13+: the last one is flags.
 * Private but exported, so looked up by name. */
typedef int (*add_pending_call)(PyInterpreterState *, int (*)(void *), void *, int);
static add_pending_call add_pending;

/* 3.12's eval breaker is one word for all reasons, computed anew by whoever changes one of them: by the monitor, which
 * holds no GIL, too. Whoever computes it from what was so a moment ago erases the other's signal; the call stays in the
 * queue then, and a thread that comes to no other reason never looks (1 of 10,000 interrupts, measured). Nor may we
 * erase a signal of somebody else's so. This one stores a 1 and computes nothing; as a reason it is harmless. Should it
 * be erased as well, by the target, it comes again with the monitor's next look. From 3.13 on they are atomic bits. */
#if PY_VERSION_HEX < 0x030D0000
static void (*signal_async)(PyInterpreterState *);

static void signal_again(void) {
    if (signal_async != NULL) {
        signal_async(interpreter);
    }
}
#else
static void signal_again(void) {}
#endif

static int ask(void *arg);

static bool may_ask(void) {
    return atomic_load_explicit(&stopped, memory_order_seq_cst) == 0 &&
           atomic_load_explicit(&paused, memory_order_seq_cst) == 0;
}

static bool queue(struct itr_thread *t) {
    if (atomic_exchange_explicit(&t->asked, 1, memory_order_acq_rel) != 0) {
        return true; /* one is in the queue */
    }
    /* seq_cst, before the flags are read: pairs with itr_async_drain(), which sets a flag and then reads in_queue. One
     * of the two sees the other. */
    atomic_fetch_add_explicit(&in_queue, 1, memory_order_seq_cst);
    if (may_ask() && add_pending(interpreter, ask, (void *)(uintptr_t)t->ref, 0) == 0) {
        return true;
    }
    atomic_fetch_sub_explicit(&in_queue, 1, memory_order_relaxed);
    atomic_store_explicit(&t->asked, 0, memory_order_release);
    return false; /* full: the monitor comes again */
}

/* A look at each check costs as much as a hundred calls. Under code that must not be cut (__exit__, a finalizer) there
 * may be millions before an interrupt can come: it runs on undisturbed for most of the time. The monitor asks again,
 * and what it asks in a pause is dropped. */
static bool pauses(struct itr_thread *t) {
    const itr_record *first = itr_first(t);
    unsigned long long id = first == NULL ? 0 : first->id;
    if (t->looked_for != id) { /* what was in the way of another one may be long gone */
        t->looked_for = id;
        t->look_after_ns = t->pause_until_ns = 0;
    }
    if (t->look_after_ns == 0) { /* the stack was not in the way when it was walked last */
        t->looked_since_ns = 0;
        return false;
    }
    int64_t now = now_ns();
    if (now < t->pause_until_ns) {
        return true; /* no look, and not counted as one: each exact call asks anew, and one pause would bring on the
                        next */
    }
    if (t->looked_since_ns == 0) {
        t->looked_since_ns = now;
        t->looked_times = 0;
    }
    t->looked_times++;
    if (t->looked_times > LOOKS_IN_VAIN && now - t->looked_since_ns > LOOKED_NS) {
        t->pause_until_ns = now + PAUSE_NS;
        t->looked_since_ns = 0;
        return true;
    }
    return false;
}

static int ask_now(itr_ref ref) {
    struct itr_slot *slot = itr_api->lock_ref(ref);
    if (slot == NULL) {
        return 0;
    }
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_relaxed);
    itr_api->unlock(slot);
    if (t == NULL || t->ref != ref) {
        return 0;
    }
    atomic_store_explicit(&t->asked, 0, memory_order_release);
    PyThreadState *tstate = PyThreadState_Get();
    if (!itr_thread_pending(t) || t->ended) {
        return 0;
    }
    if (t->redirect != NULL) {
        itr_tell_redirect(t);
        return 0;
    }
    if (tstate->thread_id != t->ident) {
        return 0;
    }
    t->tstate = tstate;
    if (itr_api->self() == NULL && itr_thread_current() != t) {
        return 0; /* it has just adopted another slot: its number was reused */
    }
    if (pauses(t)) {
        return 0;
    }
    const void *frame = itr_frame_now(tstate);
    if (frame == t->declined_frame &&
        t->declined_times > (tstate->tracing != 0 ? LOOKS_AT_A_TRACER : LOOKS_AT_ONE_PLACE)) {
        t->declined_frame = NULL; /* this goes nowhere: leave it to the monitor's slower pace */
        return 0;
    }
    if (itr_fit_position(t, tstate) == ITR_FIT) {
        t->declined_frame = NULL;
        if (itr_raise_next(t)) {
            return -1;
        }
        return 0;
    }
    /* A check behind a call: the back edge or entry after it has its own. Inside an exact call or a mask there will be
     * none before it is left, and leaving asks anew. */
    if (atomic_load_explicit(&slot->exact, memory_order_relaxed) == 0 &&
        atomic_load_explicit(&slot->mask, memory_order_relaxed) == ITR_MASK_NONE) {
        t->declined_times = frame == t->declined_frame ? t->declined_times + 1 : 0;
        t->declined_frame = frame;
        queue(t);
    }
    return 0;
}

static int ask(void *arg) {
    int result = ask_now((itr_ref)(uintptr_t)arg);
    /* Not before it is done with: it may run the program's code. Pairs with itr_async_drain(). */
    atomic_fetch_sub_explicit(&in_queue, 1, memory_order_release);
    return result;
}

int64_t itr_async_on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries) {
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_acquire);
    if (t == NULL || t->ref != ref || !may_ask()) {
        return SLOW_ASK_NS;
    }
    if (atomic_load_explicit(&t->redirected, memory_order_acquire) == 0 &&
        (atomic_load_explicit(&slot->exact, memory_order_relaxed) != 0 ||
         atomic_load_explicit(&slot->mask, memory_order_relaxed) != ITR_MASK_NONE)) {
        return itr_ask_delay_closed(tries);
    }
    queue(t);
    signal_again();
    return itr_ask_delay(tries);
}

int itr_async_setup(void) {
    interpreter = PyInterpreterState_Main();
    union {
        void *data;
        add_pending_call function;
    } symbol = {dlsym(RTLD_DEFAULT, "_PyEval_AddPendingCall")};
    add_pending = symbol.function;
#if PY_VERSION_HEX < 0x030D0000
    union {
        void *data;
        void (*function)(PyInterpreterState *);
    } signal = {dlsym(RTLD_DEFAULT, "_PyEval_SignalAsyncExc")};
    signal_async = signal.function;
#endif
    if (add_pending == NULL) {
        mode = "off: this interpreter does not export _PyEval_AddPendingCall";
    } else if (!itr_inject_probe()) {
        add_pending = NULL;
        mode = "off: the interpreter's frames are not laid out as its headers said";
    } else {
        mode = "pending-call";
    }
    return 0;
}

void itr_async_try(struct itr_thread *t) {
    /* The asker holds the GIL and would run the pending call itself at its next check: the monitor's ask, a moment
     * later, finds the target more often. */
    (void)t;
}
void itr_async_recall(struct itr_thread *t) { (void)t; }
void itr_async_settle(struct itr_thread *t) { (void)t; }
void itr_async_before_fork(void) {}
void itr_async_after_fork(void) {}
void itr_async_stop(void) { atomic_store_explicit(&stopped, 1, memory_order_seq_cst); }

bool itr_async_is_injector(unsigned long ident) {
    (void)ident;
    return false;
}

/* CPython 3.13 and later run what is in the queue before the atexit functions, in a loop that does not let the GIL go.
 * When another thread is about to run these calls, and waits for the GIL to do so, that loop never ends. So nothing of
 * ours is in the queue when the loop is reached. */
int itr_async_drain(void) {
    atomic_store_explicit(&paused, PyThread_get_thread_ident(), memory_order_seq_cst);
    const struct timespec moment = {0, 50000};
    for (int i = 0; i < DRAIN_MOMENTS && atomic_load_explicit(&in_queue, memory_order_seq_cst) != 0; i++) {
        if (Py_MakePendingCalls() != 0) { /* does nothing while another thread runs them */
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS nanosleep(&moment, NULL);
        Py_END_ALLOW_THREADS
    }
    return 0;
}

void itr_async_resume(void) {
    unsigned long by = atomic_load_explicit(&paused, memory_order_relaxed);
    if (by != 0 && by == PyThread_get_thread_ident()) {
        atomic_store_explicit(&paused, 0, memory_order_seq_cst);
    }
}

#endif
