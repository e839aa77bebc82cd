/* The park protocol (DESIGN section 3): what a wrapper does around a call that may block. */
#ifndef ITR_PARK_H
#define ITR_PARK_H

#include "flag_table.h"

/* Classes of calls. An exact call names the classes it may be broken in. */
enum itr_class {
    ITR_SLEEP = 1u << 0,
    ITR_POLL = 1u << 1,
    ITR_SELECT = 1u << 2,
    ITR_EPOLL = 1u << 3,
    ITR_SEM = 1u << 4,
    ITR_RECV = 1u << 5,
    ITR_SEND = 1u << 6,
    ITR_ACCEPT = 1u << 7,
    ITR_CONNECT = 1u << 8,
    ITR_READ = 1u << 9,
    ITR_WRITE = 1u << 10,
    ITR_COPY = 1u << 11, /* sendfile, splice, tee, copy_file_range */
    ITR_OPEN = 1u << 12,
    ITR_WAIT = 1u << 13,
    ITR_FLOCK = 1u << 14,
    ITR_SIGWAIT = 1u << 15,
    ITR_IPC = 1u << 16,
    ITR_MISC = 1u << 17,
    ITR_LOOKUP = 1u << 18, /* names and addresses of hosts */
    /* No class: a broken call says ECANCELED, whatever it is. Else polls say that nothing is ready. */
    ITR_FAILS = 1u << 30,
    /* For the stub: what Python code raises that runs inside the exact call is lost. */
    ITR_SWALLOWS = 1u << 29,
    /* For the stub: the connection is of no use any more once one of its calls was broken. */
    ITR_SPOILS = 1u << 28
};

/* In the wrapper itself, before anything else: whose call is it? */
#define ITR_NOTE_CALLER()                                                                                              \
    atomic_store_explicit(&itr_self->caller, (const void *)__builtin_return_address(0), memory_order_relaxed)

struct itr_park {
    struct itr_slot *slot;
    uint64_t word;
    uintptr_t frame; /* where on the stack it was begun */
    const char *call;
    int fd;
    uint32_t class_;
    enum itr_kind kind;
    bool exact;   /* inside an exact call that names this class */
    bool empty;   /* ... and a broken poll says that nothing is ready */
    bool firm;    /* every wait fails while an interrupt is pending; else it is told once */
    bool shuts;   /* ... and the sockets of a broken poll are shut down */
    bool sleeps;  /* ... and a sleep does so by ending early */
    bool expires; /* not firm; a broken poll that has a time-out says that it has passed */
    bool broken;  /* the call must report the interrupt now */
    bool woken;   /* a waker touched this park: an early return may be its doing */
    int saved_errno;
    uint32_t sent_before;
};

/* Prepare a park. `wanted` is the kind the wrapper can serve; p->kind becomes ITR_PARK_CLOSED when the park must not be
 * broken (masked, a call the exact call does not name, ...). Returns false when there is nothing to do at all: the
 * thread is not attached, or the call is nested in another park (a signal handler on top of it). */
bool itr_park_begin(struct itr_park *p, enum itr_kind wanted, uint32_t class_, const char *call, int fd);

/* No pipe to be had: let a signal end this park instead. Before enter. */
static inline void itr_park_downgrade(struct itr_park *p) {
    p->word = (p->word & ~UINT64_C(0xff)) | (uint64_t)ITR_PARK_SIGNAL;
    p->kind = ITR_PARK_SIGNAL;
}

/* Nobody may end this park after all: the call is made where no wake-up reaches it. Before enter. */
static inline void itr_park_close(struct itr_park *p) {
    p->word = (p->word & ~UINT64_C(0xff)) | (uint64_t)ITR_PARK_CLOSED;
    p->kind = ITR_PARK_CLOSED;
}

/* Announce it, then look at the flag. False: do not make the call, it is broken already (leave has been done). */
bool itr_park_enter(struct itr_park *p);

/* The same for ITR_PARK_DEADLINE: `deadline` is what slot->deadline says when the call is made. */
bool itr_park_enter_until(struct itr_park *p, struct timespec deadline);

/* The call has returned. `ended`: it returned without an effect (EINTR, a time-out). True: the wait must be resumed,
 * because only a stale wake-up ended it; call itr_park_enter() again. Else p->broken says whether to report the
 * interrupt. Keeps errno. */
bool itr_park_leave(struct itr_park *p, bool ended);

/* A thread that parks or leaves an exact call, and finds slot->nudge set: no wake-up that was sent while it was not
 * parked is on its way when this returns. */
void itr_park_settle(struct itr_slot *slot);

/* errno of a broken call: ECANCELED, or EINTR for foreign callers, or what the exact call asked for. */
int itr_break_errno(const struct itr_park *p);

enum itr_wake {
    ITR_WAKE_NONE,   /* not parked, or not to be woken */
    ITR_WAKE_LIKELY, /* by a signal, which may have come before the call began to wait */
    ITR_WAKE_SURE    /* the wait will end */
};

/* Wake `slot` (locked) if it is parked. */
enum itr_wake itr_wake_locked(struct itr_slot *slot);

int64_t itr_now_ns(void);

/* Inside an exact call, Python code may run (__del__, GC, callbacks): the row is suspended then. The stub installs the
 * test; without it no exact call exists. */
extern _Atomic(bool (*)(const struct itr_slot *)) itr_row_suspended;
/* Set by the stub: called by a thread that a wake-up signal has reached, behind its park. */
extern _Atomic(void (*)(void)) itr_on_woken;

#endif
