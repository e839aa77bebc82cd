/* The park protocol.
 *
 * Target                                     Waker (holds slot->lock)
 *   park = closed; the deadline
 *   park = word          (seq_cst)             pending |= bit        (seq_cst)
 *   if pending: broken   (seq_cst)             word = park           (seq_cst)
 *   the libc call                              if word: CAS WAKING, pull deadline | write | signal, clear WAKING
 *   CAS park: word -> 0
 *
 * At least one of the two sees the other: if the target's load of `pending` misses the bit, then in the single order of
 * the four accesses the waker's store comes after it, so its load of `park` comes after the target's store.
 *
 * No wake-up outlives its park. The target can leave only by a CAS from the bare word, which fails while WAKING is set,
 * so when it has left no waker is between its CAS and its signal; and it then waits until its own handler has run for
 * the last signal that was sent, and empties the pipe. What comes later was not sent by us.
 *
 * A signal may also be sent to a thread that is not parked, but waits in an exact call where nobody sees it (unseen.c).
 * That one ends no park either: whoever announces one looks behind that whether such a signal was sent, and lets it
 * come before the libc call is made. */
#include "park.h"

#include "foreign.h"
#include "interruptible.h"
#include "preload.h"
#include "self_pipe.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

_Atomic(bool (*)(const struct itr_slot *)) itr_row_suspended;
_Atomic(void (*)(void)) itr_on_woken;

int64_t itr_now_ns(void) {
    struct timespec now;
    itr_real.clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Foreign callers that take it badly: one that waits for a semaphore or for a signal may ignore the result. */
#define NEVER_FOREIGN ((uint32_t)(ITR_SEM | ITR_SIGWAIT))

static bool may_break(const struct itr_park *p) {
    struct itr_slot *slot = p->slot;
    if (atomic_load_explicit(&slot->mask, memory_order_relaxed) >= ITR_MASK_ALL || slot->unbreakable) {
        return false;
    }
    if (p->exact || slot->strict) {
        return true;
    }
    return (p->class_ & NEVER_FOREIGN) == 0;
}

/* CPython's own call, a C thread that wants it so, or a library that is known to take it. */
static void set_manner(struct itr_park *p) {
    struct itr_slot *slot = p->slot;
    p->sleeps = p->shuts = p->expires = false;
    p->firm = p->exact || slot->strict;
    if (!p->firm || (p->exact && !p->empty)) {
        int policy = itr_foreign_policy(slot, atomic_load_explicit(&slot->caller, memory_order_relaxed));
        p->sleeps = policy == ITR_LIBRARY_SLEEPS && p->class_ == ITR_SLEEP;
        p->shuts = policy == ITR_LIBRARY_SHUT;
        p->firm = p->firm || policy == ITR_LIBRARY_FAIL || p->shuts || p->sleeps;
        p->expires = !p->firm && policy == ITR_LIBRARY_POLLS;
    }
}

/* Where on the stack the park that is announced was begun. NOWHERE while that is not known: a handler may come between
 * any two instructions, and park itself. */
#define NOWHERE UINTPTR_MAX
#define NEAR 0x40000 /* what lies farther away may be another stack that the kernel does not know of */
static _Thread_local _Atomic uintptr_t parked_at;

static void unannounce(struct itr_park *p);

/* A handler that jumps (siglongjmp) or throws out of a park leaves it announced, and all further calls would be taken
 * for nested ones. Nested calls are made below the park's frame. One that is made at its height or above, and not on an
 * alternate signal stack, shows that the frame is gone: then the park is ended here. */
static bool is_nested(struct itr_slot *slot, uintptr_t frame) {
    stack_t alternate;
    uintptr_t parked = atomic_load_explicit(&parked_at, memory_order_relaxed);
    if (frame < parked || frame - parked > NEAR || sigaltstack(NULL, &alternate) != 0 ||
        (alternate.ss_flags & SS_ONSTACK) != 0) {
        return true;
    }
    struct itr_park dead = {.slot = slot};
    dead.word = atomic_load_explicit(&slot->park, memory_order_relaxed) & ~ITR_PARK_WAKING;
    dead.sent_before = atomic_load_explicit(&slot->sig_sent, memory_order_relaxed);
    unannounce(&dead);
    return false;
}

__attribute__((noinline)) bool itr_park_begin(struct itr_park *p, enum itr_kind wanted, uint32_t class_,
                                              const char *call, int fd) {
    struct itr_slot *slot = itr_self;
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    if (slot == NULL || (atomic_load_explicit(&slot->park, memory_order_relaxed) != 0 && is_nested(slot, frame))) {
        return false;
    }
    p->frame = frame;
    uint32_t row = atomic_load_explicit(&slot->exact, memory_order_relaxed);
    bool (*suspended)(const struct itr_slot *) = atomic_load_explicit(&itr_row_suspended, memory_order_relaxed);
    p->slot = slot;
    p->class_ = class_;
    p->call = call;
    p->fd = fd;
    p->broken = p->woken = false;
    p->exact = p->empty = false;
    bool closed = false;
    if (row != 0 && !(suspended != NULL && suspended(slot))) {
        p->exact = (row & class_) != 0;
        p->empty = p->exact && (row & ITR_FAILS) == 0;
        closed = !p->exact; /* a call the row does not name: not ours to fail */
    }
    p->kind = closed || !may_break(p) ? ITR_PARK_CLOSED : wanted;
    set_manner(p);
    if (!p->firm && p->kind == ITR_PARK_FDSET) {
        p->kind = ITR_PARK_SIGNAL; /* a foreign caller is told EINTR: no need of a pipe */
    }
    p->word = ++slot->generation_counter << ITR_PARK_GENERATION | (uint64_t)p->kind | (p->firm ? 0 : ITR_PARK_FOREIGN);
    atomic_store_explicit(&slot->call, call, memory_order_relaxed);
    atomic_store_explicit(&slot->fd, fd, memory_order_relaxed);
    atomic_store_explicit(&slot->since_ns, itr_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&slot->parks, atomic_load_explicit(&slot->parks, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return true;
}

#define TRANSFERS ((uint32_t)(ITR_RECV | ITR_SEND | ITR_READ | ITR_WRITE | ITR_ACCEPT | ITR_CONNECT))

/* A library whose descriptor does not block waits in a poll, and that is what fails. A transfer that cannot wait does
 * not: libpq would make a broken connection of it, and psycopg 3 an OperationalError, which nobody would drop. Asked
 * only while something is pending. */
static bool cannot_wait(const struct itr_park *p) {
    if (p->slot->strict || (p->exact && p->empty) || (p->class_ & TRANSFERS) == 0 || p->fd < 0) {
        return false;
    }
    int flags = itr_real.fcntl(p->fd, F_GETFL);
    return flags != -1 && (flags & O_NONBLOCK) != 0;
}

/* Is there something to report through this park? Says so at most once for a foreign caller, who would spin on it. */
static bool take_break(struct itr_park *p) {
    struct itr_slot *slot = p->slot;
    if (p->kind == ITR_PARK_CLOSED || atomic_load_explicit(&slot->pending, memory_order_seq_cst) == 0) {
        return false;
    }
    if (!p->firm) {
        /* One interrupt ends one foreign park. */
        return atomic_exchange_explicit(&slot->foreign_done, 1, memory_order_relaxed) == 0;
    }
    if (cannot_wait(p)) {
        return false;
    }
    /* From here on it cannot be taken back. Pairs with retract() in api.c: store committed, load pending against store
     * pending, load committed, so that not both think they won. */
    atomic_store_explicit(&slot->committed, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&slot->pending, memory_order_seq_cst) == 0) {
        atomic_store_explicit(&slot->committed, 0, memory_order_seq_cst);
        return false;
    }
    slot->broken++;
    if (slot->on_break != NULL) {
        slot->on_break(slot->on_break_arg);
    }
    return true;
}

/* The signal is pending for this very thread: the next return from the kernel handles it. The bound is for a handler
 * that another runtime has replaced, or a mask set by a raw syscall. */
static void await_handler(struct itr_slot *slot, uint32_t sent) {
    if (sent == atomic_load_explicit(&slot->sig_seen, memory_order_relaxed)) {
        return;
    }
    for (int i = 0; i < 1000; i++) {
        sched_yield();
        if (sent == atomic_load_explicit(&slot->sig_seen, memory_order_relaxed)) {
            break;
        }
    }
    atomic_store_explicit(&slot->sig_seen, sent, memory_order_relaxed);
}

/* Against nudge() in unseen.c, which stores BEGUN and then loads what this thread has stored before it came here: the
 * park word, or what exact call it is in. Each is seq_cst, so either it saw that and has sent nothing, or this thread
 * sees BEGUN, and waits for what becomes of it. */
void itr_park_settle(struct itr_slot *slot) {
    for (;;) {
        uint32_t nudge = atomic_load_explicit(&slot->nudge, memory_order_acquire);
        if (nudge == ITR_NUDGE_NONE) {
            return;
        }
        if (nudge == ITR_NUDGE_BEGUN) {
            sched_yield();
            continue;
        }
        await_handler(slot, atomic_load_explicit(&slot->sig_sent, memory_order_acquire));
        /* Fails when another look has begun meanwhile, which sends nothing and puts back what it found. */
        if (atomic_compare_exchange_strong_explicit(&slot->nudge, &nudge, ITR_NUDGE_NONE, memory_order_acq_rel,
                                                    memory_order_relaxed)) {
            slot->nudged++;
            return;
        }
    }
}

/* Make the park word 0 again, and every wake-up sent for it past. Keeps errno. */
static void unannounce(struct itr_park *p) {
    struct itr_slot *slot = p->slot;
    uint64_t expected = p->word;
    atomic_store_explicit(&parked_at, NOWHERE, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    /* acq_rel: pairs with the waker's release when it clears WAKING, so its writes (piped, sig_sent) are seen. */
    while (
        !atomic_compare_exchange_weak_explicit(&slot->park, &expected, 0, memory_order_acq_rel, memory_order_acquire)) {
        if ((expected & ~ITR_PARK_WAKING) != p->word) {
            return; /* taken for dead: a handler has switched stacks */
        }
        if (expected != p->word) {
            p->woken = true;
            sched_yield();
        }
        expected = p->word;
    }
    uint32_t sent = atomic_load_explicit(&slot->sig_sent, memory_order_acquire);
    if (sent != p->sent_before) {
        p->woken = true;
    }
    await_handler(slot, sent);
    if (atomic_load_explicit(&slot->piped, memory_order_relaxed)) {
        p->woken = true;
        atomic_store_explicit(&slot->piped, false, memory_order_relaxed);
        itr_pipe_drain(slot);
    }
    void (*hook)(void) = sent == p->sent_before ? NULL : atomic_load_explicit(&itr_on_woken, memory_order_acquire);
    if (hook != NULL) {
        hook();
    }
}

/* From here on a handler's own waits are nested, and leave the slot alone; no waker touches it yet. The word is for the
 * thread itself, whose handlers come between any two instructions, so the compiler's order is enough. */
static void begin_announcing(struct itr_park *p) {
    p->saved_errno = errno;
    p->woken = false;
    atomic_store_explicit(&parked_at, NOWHERE, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    uint64_t closed = (p->word & ~UINT64_C(0xff)) | (uint64_t)ITR_PARK_CLOSED;
    atomic_store_explicit(&p->slot->park, closed, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&parked_at, p->frame, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

static bool announce(struct itr_park *p) {
    /* A waker sends only while it holds WAKING on our word, so whatever is added from here on is for this park. */
    p->sent_before = atomic_load_explicit(&p->slot->sig_sent, memory_order_relaxed);
    /* A waker that sees this word sees the deadline too, and pulls that one. */
    atomic_store_explicit(&p->slot->park, p->word, memory_order_seq_cst);
    if (__builtin_expect(atomic_load_explicit(&p->slot->nudge, memory_order_seq_cst) != ITR_NUDGE_NONE, 0)) {
        /* `sent_before` may be of before it: then an early return is taken for a waker's, and the call is made again.
         */
        itr_park_settle(p->slot);
    }
    /* Who is told EINTR is told so by the kernel, when the call really waits: libzmq aborts when a read of what is
     * readable fails, and a connect that was never issued looks connected to whoever then polls for it. The monitor
     * sees to it that the signal comes. */
    if (p->firm && take_break(p)) {
        unannounce(p);
        p->broken = true;
        return false;
    }
    return true;
}

/* Only a handler of the program's ends these. sigwait and its like, of the same class, end with a signal that they
 * take. */
static bool ends_by_handler(const struct itr_park *p) {
    return p->class_ == ITR_SIGWAIT && (strcmp(p->call, "sigsuspend") == 0 || strcmp(p->call, "pause") == 0);
}

bool itr_park_enter(struct itr_park *p) {
    begin_announcing(p);
    return announce(p);
}

bool itr_park_enter_until(struct itr_park *p, struct timespec deadline) {
    begin_announcing(p);
    p->slot->deadline = deadline;
    return announce(p);
}

bool itr_park_leave(struct itr_park *p, bool ended) {
    int saved = errno;
    unannounce(p);
    if (!ended) { /* it had its effect, which is kept; the interrupt comes at the next chance */
        errno = saved;
        return false;
    }
    p->broken = (p->firm || p->woken) && take_break(p);
    /* A handler of the program's may have run beside the stale wake-up, and may be all that the caller waits for: an
     * EINTR for nothing can be made good, one that is kept back cannot. */
    if (!p->broken && p->woken && !ends_by_handler(p)) {
        errno = p->saved_errno; /* as it was before the call that will be made again */
        return true;
    }
    errno = saved;
    return false;
}

int itr_break_errno(const struct itr_park *p) {
    if (p->exact && p->slot->break_errno != 0) {
        return p->slot->break_errno;
    }
    return p->firm ? ECANCELED : EINTR;
}

/* Zero is in the past for an absolute deadline and no time for a relative one. The two words are not written
 * atomically, but both before the signal is sent: a kernel that read a torn value is asleep by then, and the signal
 * ends that; one that has not read yet reads zeros. The race with that read is the point, so ThreadSanitizer is not
 * asked. */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline))
#endif
static void
pull_deadline(struct itr_slot *slot) {
    slot->deadline.tv_sec = 0;
    slot->deadline.tv_nsec = 0;
    atomic_thread_fence(memory_order_seq_cst);
}

/* A thread announces its park a moment before the kernel puts it to sleep, and a signal in between is lost. */
#define SURELY_ASLEEP_NS 1000000

static enum itr_wake wake_by_signal(struct itr_slot *slot) {
    itr_signal_send(slot);
    int64_t since = atomic_load_explicit(&slot->since_ns, memory_order_relaxed);
    return itr_now_ns() - since > SURELY_ASLEEP_NS ? ITR_WAKE_SURE : ITR_WAKE_LIKELY;
}

enum itr_wake itr_wake_locked(struct itr_slot *slot) {
    uint64_t word = atomic_load_explicit(&slot->park, memory_order_seq_cst);
    enum itr_kind kind = ITR_PARK_KIND(word);
    if (kind == ITR_PARK_NONE || kind == ITR_PARK_CLOSED || (word & ITR_PARK_WAKING) != 0 || !slot->adopted) {
        return ITR_WAKE_NONE;
    }
    if ((word & ITR_PARK_FOREIGN) != 0 && atomic_load_explicit(&slot->foreign_done, memory_order_relaxed) != 0) {
        return ITR_WAKE_NONE; /* it was told once; more would make its retry loop spin */
    }
    if (!atomic_compare_exchange_strong_explicit(&slot->park, &word, word | ITR_PARK_WAKING, memory_order_seq_cst,
                                                 memory_order_relaxed)) {
        return ITR_WAKE_NONE; /* it left; if it parks again it sees `pending` itself */
    }
    enum itr_wake wake = ITR_WAKE_SURE;
    switch (kind) {
    case ITR_PARK_FDSET:
        if (itr_pipe_write(slot)) {
            atomic_store_explicit(&slot->piped, true, memory_order_relaxed);
        } else {
            wake = wake_by_signal(slot); /* the program closed it */
        }
        break;
    case ITR_PARK_DEADLINE:
        pull_deadline(slot);
        itr_signal_send(slot);
        break;
    default:
        wake = wake_by_signal(slot);
        break;
    }
    atomic_fetch_and_explicit(&slot->park, ~ITR_PARK_WAKING, memory_order_release);
    /* A library that was told EINTR goes back to Python sooner or later, and that is to be noticed soon. */
    return (word & ITR_PARK_FOREIGN) != 0 ? ITR_WAKE_LIKELY : wake;
}
