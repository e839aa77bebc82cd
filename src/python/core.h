/* The CPython stub: what its files share. Everything here is called with the GIL held unless it says otherwise. */
#ifndef ITR_CORE_H
#define ITR_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <frameobject.h>

#include "api.h"

/* 3.9 lacks a few of the names used here. */
#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *itr_newref(PyObject *object) {
    Py_INCREF(object);
    return object;
}
#define Py_NewRef itr_newref
#endif

#if PY_VERSION_HEX < 0x03090000
#error "CPython 3.9 or later"
#endif
#ifdef Py_GIL_DISABLED
#error "free-threaded CPython is not supported: the records and the swapped calls count on the GIL"
#endif

/* From 3.12 a pending call runs in the target itself and can look before it raises; before, an async exception armed
 * while the target waits for the GIL fires in the very check it waits in (DESIGN 4.2, delivery_experiments 3 and 4). */
#define ITR_BY_PENDING_CALL (PY_VERSION_HEX >= 0x030C0000)

/* ---- the shim (shim.c), and the tables of methods
 * ------------------------------------------------------------------------------------------------ */

extern const struct itr_stub_api *itr_api;
extern char *itr_library_path;
/* 0, or -1 with an ImportError. */
int itr_load_api(void);

#define ITR_METHOD(name, flags, text)                                                                                  \
    { #name, (PyCFunction)(void (*)(void))core_##name, flags, text }
extern PyMethodDef itr_mask_methods[], itr_looking_methods[];

/* ---- the program's own code inside ours (shield.c)
 * -------------------------------------------------------------------------------------------------------------- */

/* The calling thread takes no interrupt until it is unshielded: constructors, comparisons and callbacks of the
 * program's may wait, and what they raise is dropped, or means something else. NULL: it is not attached. */
struct itr_slot *itr_shield(void);
void itr_unshield(struct itr_slot *slot);

/* ---- records (records.c)
 * ------------------------------------------------------------------------------------------------ */

enum itr_state { ITR_STATE_PENDING, ITR_STATE_DELIVERED, ITR_STATE_RETRACTED, ITR_STATE_DISCARDED };

/* One interrupt. Several handles may share it: equal `exc` coalesces (S3). */
typedef struct {
    PyObject_HEAD unsigned long long id;
    PyObject *exc; /* a class or an instance */
    PyObject *reason;
    unsigned long source;
    PyObject *instance;   /* what was raised, or is about to be */
    PyObject *armed_type; /* up to 3.11: the class that stands for it (asyncexc.c) */
    enum itr_state state;
    bool taken; /* off the queue, and about to be delivered: pending, but too late to take back */
    itr_ref target;
    int holders;       /* handles that have not cancelled */
    PyObject *waiters; /* list of held locks, one per wait() */
    PyObject *thread;  /* a weak reference to the unstarted Thread it waits for, or NULL */
    PyObject *key;     /* ... and that one's place in the table */
} itr_record;

#define ITR_REMEMBERED 8

/* A Python thread. Belongs to a slot for ever and is handed on from life to life, so that the monitor, which has no
 * GIL, may look at it at any time. */
struct itr_thread {
    struct itr_slot *slot;
    itr_ref ref;
    unsigned long ident;
    PyThreadState *tstate;
    uint64_t tstate_id;                    /* of the one that it was attached with; no other ever has the same */
    PyObject *queue;                       /* list of itr_record: pending, oldest first */
    PyObject *redirect;                    /* set_redirect() */
    _Atomic int redirected;                /* ... for the monitor */
    bool ended;                            /* its function has returned: nothing is accepted any more */
    bool tells;                            /* it runs under a runner, which sees that happen */
    itr_record *delivered[ITR_REMEMBERED]; /* in this thread, the latest first (delivered.c) */
    PyObject *last_exact;                  /* instance last raised from an exact call, borrowed identity only */
    uint32_t user_masks[3];
    /* injection */
    _Atomic int asked;              /* a pending call of ours is queued */
    _Atomic int64_t calls_since_ns; /* seen at nothing but calls since; 0: not */
    itr_record *armed;              /* up to 3.11: given to CPython, not raised yet */
    PyObject *armed_type;
    bool armed_raised;       /* ... and CPython has made an exception of it */
    Py_ssize_t armed_refs;   /* references to its class but CPython's */
    const void *noted_frame; /* up to 3.11: where the last exact call was left; its result may still be there */
    int noted_lasti;
    bool noted_gone;         /* that frame is not on the stack (set by a look) */
    Py_tracefunc traced_by;  /* up to 3.11: who else traces it, while we do */
    int64_t traced_since_ns; /* ... no line has come since */
    int64_t traced_since_own_ns;
    int trace_events;              /* lines that were looked at, and were not fit */
    int trace_events_seen;         /* ... as many of them were there when the monitor asked last */
    const void *asked_frame;       /* an extension module asks from here whether to go on (check_signals.c), */
    uint64_t asked_parks;          /* ... has waited that often so far, */
    int64_t asked_since_ns;        /* ... and goes on asking since */
    uint64_t exact_count;          /* exact calls left so far */
    bool nudged;                   /* the last of them may have ended because of a wake-up outside of a park */
    uint64_t calls_count;          /* ... when calls_since_ns was set */
    int64_t look_after_ns;         /* the stack was walked in vain: no look before that */
    int64_t starved_since_ns;      /* no place but such as hold a result since, */
    int starved_looks;             /* ... seen so often, */
    uint64_t starved_count;        /* ... with no exact call left meanwhile, */
    unsigned long long starved;    /* ... by this interrupt; 0: by none */
    const void *declined_frame;    /* the last unfit position, */
    int declined_times;            /* ... and how often it was */
    int64_t looked_since_ns;       /* from 3.12: in vain since, at each check, because of what is on the stack; */
    int looked_times;              /* ... so often, */
    unsigned long long looked_for; /* ... for this interrupt; */
    int64_t pause_until_ns;        /* ... and no more before that */
};

extern PyTypeObject itr_record_type;
extern PyTypeObject itr_handle_type;
extern PyTypeObject itr_runner_type;
extern PyObject *itr_default_exception;

unsigned long itr_main_ident(void);
void itr_main_signals_setup(void);
void itr_main_signals_after_fork(void);
void itr_main_signals_stop(void);
bool itr_in_main_interpreter(void);
/* The calling thread's record keeper; NULL for the main thread and for other interpreters' threads. Attaches. */
struct itr_thread *itr_thread_current(void);
/* Same, but never attaches. */
struct itr_thread *itr_thread_attached(void);
/* Of another thread: attaches it from outside. NULL with an exception set. */
struct itr_thread *itr_thread_of(unsigned long ident, long native_id);
void itr_threads_after_fork(void);
/* NULL when it is not attached; no exception. */
struct itr_thread *itr_thread_find(unsigned long ident);
PyThreadState *itr_tstate_of(unsigned long ident);

static inline bool itr_thread_pending(const struct itr_thread *t) {
    return atomic_load_explicit(&t->slot->pending, memory_order_relaxed) != 0;
}

/* Take the next pending interrupt and give its exception instance (new reference). NULL without an exception: there is
 * none. NULL with one: its class could not be instantiated; it is consumed all the same. */
PyObject *itr_take(struct itr_thread *t);
/* The first that is pending, which stays so (borrowed); the same, off the queue (a reference); NULL: none. Neither runs
 * any Python code, nor says what becomes of it. */
itr_record *itr_first(struct itr_thread *t);
itr_record *itr_pop(struct itr_thread *t);
/* The exception to raise for it, made once (a reference). May run Python code. NULL with an exception. */
PyObject *itr_record_instance(itr_record *record);
/* Discard what is pending now. */
void itr_discard(struct itr_thread *t);
/* Take it and raise it. True when an exception is set now. Does not look at masks. */
bool itr_raise_next(struct itr_thread *t);
/* The thread's function has returned: everything is discarded. */
void itr_thread_end(struct itr_thread *t);
void itr_record_resolve(itr_record *record, enum itr_state state);
/* It is delivered: as the above, and remembered. Steals the reference. */
void itr_record_delivered(struct itr_thread *t, itr_record *record);
/* Let every wait() look again. */
void itr_record_wake(itr_record *record);
itr_record *itr_record_new(PyObject *exc, PyObject *reason);
int itr_record_enqueue(struct itr_thread *t, itr_record *record);
/* The pending one in this list that an equal exception joins (S3; a reference), or NULL. May run Python code. */
itr_record *itr_record_equal(PyObject *list, PyObject *exc);
typedef struct {
    PyObject_HEAD itr_record *record;
    bool cancelled;
} itr_handle;

/* A new handle on `record` (whose reference it shares). */
PyObject *itr_handle_new(itr_record *record);
PyObject *itr_handle_state(PyObject *handle, void *unused);
PyObject *itr_handle_explain(PyObject *handle, PyObject *unused);
/* The thread of a pending record, or NULL. A thread that ended without telling Python has discarded it. */
struct itr_thread *itr_record_owner(itr_record *record);
PyObject *itr_interrupt_thread(struct itr_thread *t, PyObject *exc, PyObject *reason);
/* A thread under set_redirect(): told, unless it is masked, never raised into. */
void itr_tell_redirect(struct itr_thread *t);

/* ---- unstarted threads (prestart.c)
 * ---------------------------------------------------------------------------------------- */

PyObject *itr_prestart(PyObject *thread, PyObject *exc, PyObject *reason);
PyObject *itr_prestart_take(PyObject *thread); /* list of records (new reference) or NULL */
/* It has begun, and has not taken them: are there any? They are discarded. */
bool itr_prestart_over(PyObject *thread);
int itr_prestart_pending(PyObject *thread);
bool itr_prestart_remove(itr_record *record); /* false: an exception is set */
/* The thread's runner has begun (t) or ended (NULL): from here on prestart() records in its own queue. */
int itr_prestart_begun(PyObject *thread, const struct itr_thread *t);

/* ---- positions (inject.c)
 * ----------------------------------------------------------------------------------------------- */

int itr_inject_setup(PyObject *opmap);
int itr_inject_uninterruptible(PyObject *code);
/* May the exact call that this thread is in raise at all? (DESIGN: _acquire_restore, threading's own bootstrap)
 * `broken`: it waited, and was woken for it. */
bool itr_may_raise_here(bool broken);
/* Is it one that is waited out? */
bool itr_must_finish_here(void);
/* Does this read or write belong to a message of multiprocessing's that has begun? (message.c) */
enum itr_message {
    ITR_MESSAGE_NONE,
    ITR_MESSAGE_REST,  /* its end will come, or is to be written */
    ITR_MESSAGE_UNREAD /* its end is to be written, if only the other side reads on */
};
/* Also the connection that has to be closed when an unread one is given up (a reference, or NULL). */
enum itr_message itr_message_here(PyObject **connection);
/* Code that nobody can catch in (finalizer.c): a finalizer, or a callback of a weak reference's or the collector's; */
bool itr_is_finalizer(PyFrameObject *frame, PyCodeObject *code);
/* ... what is told of such exceptions itself; */
bool itr_is_unraisable_hook(PyFrameObject *frame, PyCodeObject *code);
/* ... generators that clean up behind their last `yield`. */
bool itr_is_closing_generator(PyThreadState *tstate);
int itr_finalizer_setup(PyObject *opmap);
/* ... what io asks of a file, whatever comes out of that (io_dropped.c). */
bool itr_is_question_of_io(PyFrameObject *frame, PyCodeObject *code);
int itr_io_dropped_setup(void);
enum itr_fit { ITR_FIT, ITR_UNFIT, ITR_UNFIT_CALL };
/* Where `tstate` stands now: may an exception be raised there? Repairs the exception table when that is needed. */
enum itr_fit itr_fit_position(struct itr_thread *t, PyThreadState *tstate);
/* Up to 3.11: the same for a trace event (the call of `frame`, or a line in it) of the calling thread. */
bool itr_fit_event(struct itr_thread *t, PyFrameObject *frame, bool call);
/* Is the interpreter laid out as the headers said? (frames.c) */
bool itr_inject_probe(void);
/* Code of the modules that are not cut (protected.c); */
bool itr_is_protected(PyFrameObject *frame);
/* ... of those under which nothing is; */
bool itr_is_whole(PyFrameObject *frame);
/* ... of the standard library. */
bool itr_is_library(PyCodeObject *code);
/* `prefix`: of its files, or None; `names`: of its modules, a frozenset. */
int itr_protected_setup(PyObject *prefix, PyObject *names);
int itr_protect(PyObject *globals, bool whole);
int itr_may_raise_setup(void);
/* The thread leaves an exact call: its caller's position still holds the result. */
void itr_note_exact(struct itr_thread *t);
const void *itr_frame_now(PyThreadState *tstate);

/* ---- what was delivered (delivered.c)
 * ---------------------------------------------------------------------------------------------------------------- */

/* Steals the reference. Gives the one that is forgotten for it, or NULL, to be dropped. */
itr_record *itr_delivered_add(struct itr_thread *t, itr_record *record);
/* The one that raised this instance, or the latest (NULL), which is forgotten by that; a reference, or NULL. */
itr_record *itr_delivered_take(struct itr_thread *t, const PyObject *instance);
void itr_delivered_forget(struct itr_thread *t);
/* Let go of one, or of NULL. */
void itr_delivered_drop(itr_record *record);

/* ---- asking (pending_call.c from 3.12, asyncexc.c and injector.c up to 3.11)
 * ------------------------------------------------------------------------------------------------- */

int itr_async_setup(void);
const char *itr_async_mode(void);
/* The monitor's question; no GIL. */
int64_t itr_async_on_running(struct itr_slot *slot, itr_ref ref, uint32_t tries);
/* Look at once, if that is possible from here. */
void itr_async_try(struct itr_thread *t);
/* Take back what was armed in this thread and not raised yet. */
void itr_async_recall(struct itr_thread *t);
/* Has what was armed been raised? Then it is delivered. */
void itr_async_settle(struct itr_thread *t);
/* Up to 3.11: one look at where it stands; and further ones until what is armed has been raised. */
void itr_async_look(struct itr_thread *t);
void itr_injector_look_again(itr_ref ref);
void itr_async_before_fork(void);
void itr_async_after_fork(void); /* in the child */
void itr_async_stop(void);
/* At the end of the main thread's program: ask nothing more, and have nothing of ours in the interpreter's queue; gives
 * the GIL up while it waits. -1: somebody else's pending call raised. */
int itr_async_drain(void);
/* Up to 3.12 a thread of ours has a thread state, and is nobody's to interrupt. */
bool itr_async_is_injector(unsigned long ident);
/* The thread that drained interrupts somebody, in an atexit function: ask again. */
void itr_async_resume(void);

/* ---- fork and the end (lifecycle.c)
 * ---------------------------------------------------------------------------------------------------------------- */

int itr_register_hooks(void);

/* ---- no collections (collections.c), up to 3.11
 * ---------------------------------------------------------------------------------------------------------------- */

int itr_collections_setup(void);
/* Were they on? */
bool itr_collections_off(void);
void itr_collections_on(bool were);

/* ---- stepping (trace_look.c), up to 3.11
 * ------------------------------------------------------------------------------------ */

/* Have the thread itself look at every line it comes to, and raise at the first that is fit. No Python code runs. */
void itr_trace_start(struct itr_thread *t, PyThreadState *tstate);
/* It does already, or need not for now. */
bool itr_trace_is_on(const struct itr_thread *t, const PyThreadState *tstate);
/* Is anybody against it? Asks the audit hooks, which are Python code. */
bool itr_trace_allowed(void);
void itr_trace_stop(struct itr_thread *t);
/* It looks, in this thread state of its own, but has not come to any line for long. */
bool itr_trace_in_vain(struct itr_thread *t, const PyThreadState *tstate);

/* Nobody looks any more for an exception that was taken back (unsignal.c, up to 3.11). */
void itr_unsignal(void);

/* ---- exact calls (exact_table.c, exact_calls.c)
 * ------------------------------------------------------------------------- */

int itr_exact_install(void);
void itr_exact_uninstall(void);
bool itr_exact_installed(void);
PyObject *itr_exact_rows(void);
PyObject *itr_exact_builtins(void);
bool itr_row_is_suspended(const struct itr_slot *slot); /* the shim's hook: no GIL */

/* ---- extension modules (check_signals.c)
 * ------------------------------------------------------------------------------------ */

/* From the next itr_api->bind() on they see ours. */
void itr_check_signals_bind(void);

/* ---- threads' functions (runner.c)
 * ---------------------------------------------------------------------------------------- */

PyObject *itr_runner_new(PyObject *function);

#endif
