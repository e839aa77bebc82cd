/* The flag table: one slot per attached pthread. See DESIGN section 3 for the protocol the words below belong to.
 *
 * Who may touch what:
 *   target   the slot's own thread
 *   waker    any thread that wants it, holding slot->lock
 */
#ifndef ITR_FLAG_TABLE_H
#define ITR_FLAG_TABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define ITR_CACHE_LINE 64

/* The park word: generation << 16 | WAKING | kind. 0: not parked. */
enum itr_kind {
    ITR_PARK_NONE = 0,
    ITR_PARK_SIGNAL = 1,   /* ended by a signal without SA_RESTART; the monitor repeats it */
    ITR_PARK_FDSET = 2,    /* ended by a byte in the self-pipe */
    ITR_PARK_DEADLINE = 3, /* ended by moving the deadline, which lives in the slot, into the past, then a signal */
    ITR_PARK_CLOSED = 4    /* announced so that it can be explained; nobody may end it */
};
#define ITR_PARK_KIND(word) ((enum itr_kind)((word)&0xffu))
#define ITR_PARK_WAKING UINT64_C(0x100)
#define ITR_PARK_FOREIGN UINT64_C(0x200) /* the caller is neither CPython nor a strict C thread */
#define ITR_PARK_GENERATION 16

/* slot->pending: who recorded something. */
#define ITR_PENDING_API 1u /* itr_interrupt(): a bit, so it coalesces */
#define ITR_PENDING_PY 2u  /* the CPython stub has records queued */

/* slot->nudge (unseen.c). */
#define ITR_NUDGE_NONE 0u
#define ITR_NUDGE_BEGUN 1u /* somebody looks whether to send one: who parks or leaves the exact call waits for that */
#define ITR_NUDGE_SENT 2u  /* one was sent; the target has not taken note of it */

/* slot->exact: classes of calls (enum itr_class) that the exact call in progress lets us end, plus this bit. */
#define ITR_IN_EXACT 0x80000000u

struct itr_slot {
    /* -- the target's hot words ------------------------------------------------------------------------------------ */
    _Alignas(ITR_CACHE_LINE) _Atomic uint64_t park;
    _Atomic uint32_t pending;
    _Atomic uint32_t mask;         /* ITR_MASK_*, the effective level */
    _Atomic uint32_t exact;        /* 0: not in an exact call */
    _Atomic uint32_t committed;    /* a call was broken for what is pending: too late to take it back */
    _Atomic uint32_t foreign_done; /* what is pending has already broken one foreign call */
    _Atomic uint32_t sig_sent;     /* wake-up signals sent, written under lock */
    _Atomic uint32_t sig_seen;     /* ... and handled, written by the target's handler */
    _Atomic uint32_t nudge;        /* ITR_NUDGE_* */
    _Atomic uint32_t exacts;       /* exact calls begun so far */
    uint32_t nudged;               /* target: wake-ups that came in the current exact call while it was not parked */
    uint32_t broken;               /* target: parks of the current exact call that were broken */
    int break_errno;               /* target: errno of a broken read or write in this exact call (TLS wants EAGAIN) */
    bool fake_clock;               /* target: the next clock_gettime reports a far future (Thread.join, 3.13+) */
    bool join_row;                 /* target: ... is wanted by the exact call in progress */
    bool strict;                   /* a C thread: its calls fail with ECANCELED */
    bool unbreakable;              /* target: the wrapper resumes a wait that may not be broken */
    void (*on_break)(void *);      /* target: called, without the GIL, right before a park is reported as broken */
    void *on_break_arg;
    const void *frame; /* target: Python's frame at the entry of the exact call */
    const void *tstate;
    uint64_t generation_counter; /* target: of park words */
    const void *policy_of;       /* target: the last foreign caller whose policy was looked up (foreign.c) */
    char policy_path[128];       /* ... and the object it is in */
    uint32_t policy_generation;
    int policy;
    int64_t until_ns; /* target: the latest end of the exact call's semaphore waits, CLOCK_MONOTONIC; 0: none */
    bool until_kept;  /* target: ... and one of them has looked at it */

    /* -- written by the target when it parks, read by anybody ------------------------------------------------------ */
    _Alignas(ITR_CACHE_LINE) _Atomic uint64_t parks;
    _Atomic int64_t since_ns;
    _Atomic(const char *) call;
    _Atomic(const void *) caller; /* a return address */
    _Atomic int fd;
    /* The wait's deadline. The kernel reads it while a waker may zero it; see itr_wake(). */
    struct timespec deadline;

    /* -- under lock --------------------------------------------------------------------------------------------------
     */
    _Alignas(ITR_CACHE_LINE) pthread_mutex_t lock;
    pthread_t thread;
    pid_t tid;
    _Atomic uint32_t live; /* 0: free; odd/even life numbers tell one owner from the next */
    uint32_t life;
    uint32_t index;
    uint32_t hash_next; /* table lock: index + 1 of the next slot in the bucket or free list */
    bool adopted;       /* the thread itself knows its slot (else: attached from outside) */
    int pipe[2];        /* -1: none */
    dev_t pipe_dev;
    ino_t pipe_ino;
    bool making_pipe;       /* target: one is being made, in the calls that this one's handler has interrupted */
    _Atomic bool piped;     /* a byte was written for the park in progress */
    int sig_number;         /* of the signal that was sent last */
    bool program_blocks;    /* target: the program's own idea of our signal in this thread's mask */
    uint32_t mask_depth[3]; /* target: pushes by level */

    /* -- the monitor's
     * -------------------------------------------------------------------------------------------------- */
    bool watched;
    uint32_t watch_next;
    uint32_t tries;
    int64_t next_ns;
    uint32_t wake_fails;
    uint64_t still_parks; /* unseen.c: what was so when it was seen first in this exact call, */
    uint32_t still_exacts, still_binds;
    int64_t still_cpu_ns, still_since_ns; /* ... and how long it has used no CPU time */
    _Atomic uint32_t nudges;              /* sent since then */

    /* -- the CPython stub's
     * ---------------------------------------------------------------------------------------------- */
    _Atomic(void *) user;
};

/* A slot's identity that survives the slot: index << 32 | life. 0: none. */
typedef uint64_t itr_ref;

extern _Thread_local struct itr_slot *itr_self;

struct itr_slot *itr_slot_at(uint32_t index);
struct itr_slot *itr_slot_of_ref(itr_ref ref); /* not locked: check the life again under lock */
static inline itr_ref itr_ref_of(const struct itr_slot *slot) { return ((uint64_t)slot->index << 32) | slot->life; }

/* The slot of `thread`, locked; NULL when it has none. */
struct itr_slot *itr_lock_thread(pthread_t thread);
/* The slot, locked, when it still belongs to the same thread; else NULL. */
struct itr_slot *itr_lock_ref(itr_ref ref);
void itr_unlock(struct itr_slot *slot);

/* Attach the calling thread. NULL when memory ran out. */
struct itr_slot *itr_attach_self(void);
/* Attach another thread, which adopts the slot at its first itr_attach_self(). 0 when memory ran out. */
itr_ref itr_attach_other(pthread_t thread, pid_t tid);
/* The caller is the thread that was attached as `ref` by who did not know its tid (0), and is about to adopt that slot.
 */
void itr_claim_self(itr_ref ref);
void itr_detach_self(void);

/* Calls visit(slot, arg) for every slot in use, without locks. */
void itr_each_slot(void (*visit)(struct itr_slot *, void *), void *arg);

void itr_table_before_fork(void);
void itr_table_after_fork(bool child);

#endif
