/* A thread that waits in an exact call where nobody sees it.
 *
 * It has gone into libc's own function: through a slot that was not bound yet, or not any more; through a pointer that
 * was taken before; by a system call. So it has announced no park, and no interrupt that is recorded from now on wakes
 * it. But who called that function is CPython, or a library that one of its wrappers knows, and these make the call
 * again when it says EINTR: through the slot, which is bound by now. So a wake-up signal brings it into the open, where
 * it finds out by itself what is pending. (The few calls that CPython does not make again, its wrapper does:
 * exact_calls.c.)
 *
 * Nothing else may be hit by that signal:
 *
 * - No call that is not of the exact call's own. It is sent only while the thread is in an exact call, is not parked
 *   and runs no Python code in there; and whoever parks or leaves the exact call meanwhile waits until the signal has
 *   come (slot->nudge, nudge() below against itr_park_settle() in park.c). So it ends neither an announced wait, whose
 *   caller may not be told EINTR, nor anything behind the exact call.
 * - No untimed wait for a semaphore. CPython 3.13 and 3.14 have a lock in themselves that does not survive EINTR there.
 *   Our sem_wait announces a park that nobody may end, so this is about one that was begun before it was bound: the
 *   kernel says what a thread waits in. While the slots are bound, which bind_lock sees to between that look and the
 *   signal, the thread cannot leave that wait and get into such a one.
 * - No thread that works, or is about to be seen: only one that has used no CPU time for a while, in one exact call,
 *   without a park. On a busy machine it may only wait for its turn; then the signal ends nothing.
 *
 * Who waits for the GIL, or for a lock of libc's, waits on. Looking up a name is not ended: the resolver waits by
 * itself and never comes back to us before it is done.
 *
 * Where the call made again is not seen either (libc's sigwait() loops in itself), nothing helps, and each attempt
 * costs the program an EINTR: after 20 ms, 40 ms, ... in the end each second. */
#include "unseen.h"

#include "interruptible.h"
#include "late_bind.h"
#include "park.h"
#include "preload.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STILL_NS 20000000 /* beyond what a thread needs that is on its way into a park, or waits for the GIL (5 ms) */
#define MOST_NS 1000000000
#define DOCTOR_NUDGES 4 /* and at 8, 16, ... */

/* The classes of calls that are made again. */
#define COMES_BACK ((uint32_t)(ITR_LOOKUP - 1u))

static _Atomic uint32_t binds;

void itr_unseen_bound(void) { atomic_fetch_add_explicit(&binds, 1, memory_order_relaxed); }

/* The CPU time of one of our threads, by its number; no descriptor is needed for that. 0 where the system cannot say:
 * then only what the thread itself counts shows whether it gets on. */
static int64_t cpu_ns(pid_t tid) {
    struct timespec used;
    clockid_t clock = (clockid_t)((~(unsigned)tid << 3) | 6u); /* as pthread_getcpuclockid() makes it */
    if (tid == 0 || syscall(SYS_clock_gettime, clock, &used) != 0) {
        return 0;
    }
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* Is the thread in a system call that may be told EINTR? By system calls of our own: these are not to be parks. */
static bool may_be_ended(pid_t tid, uint32_t classes) {
    char text[256];
    (void)snprintf(text, sizeof text, "/proc/self/task/%d/syscall", (int)tid);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : syscall(SYS_read, fd, text, sizeof text - 1);
    if (fd >= 0) {
        syscall(SYS_close, fd);
    }
    if (n <= 0) {
        return (classes & ITR_SEM) == 0; /* nobody says; elsewhere untimed waits for semaphores are rare */
    }
    text[n] = '\0';
    char *at = text;
    long number = strtol(text, &at, 10);
    if (at == text || number < 0) {
        return false; /* "running", or not in a system call */
    }
    unsigned long long arguments[4] = {0};
    for (int i = 0; i < 4; i++) {
        arguments[i] = strtoull(at, &at, 16);
    }
    return number != SYS_futex || arguments[3] != 0 /* the time-out */;
}

/* Send one, unless the thread comes into the open or leaves meanwhile. */
static bool nudge(itr_ref ref) {
    struct itr_slot *slot = itr_lock_ref(ref);
    if (slot == NULL) {
        return false;
    }
    bool sent = false;
    bool (*suspended)(const struct itr_slot *) = atomic_load_explicit(&itr_row_suspended, memory_order_acquire);
    /* seq_cst, and then the loads: see itr_park_settle(). */
    uint32_t before = atomic_exchange_explicit(&slot->nudge, ITR_NUDGE_BEGUN, memory_order_seq_cst);
    /* It is in an exact call, and stays there until we are done: its thread state and frames may be looked at. */
    if ((atomic_load_explicit(&slot->exact, memory_order_seq_cst) & COMES_BACK) != 0 &&
        atomic_load_explicit(&slot->park, memory_order_seq_cst) == 0 && slot->adopted && !slot->unbreakable &&
        atomic_load_explicit(&slot->pending, memory_order_seq_cst) != 0 &&
        atomic_load_explicit(&slot->mask, memory_order_relaxed) < ITR_MASK_ALL && suspended != NULL &&
        !suspended(slot)) {
        itr_signal_send(slot);
        sent = true;
    }
    atomic_store_explicit(&slot->nudge, sent ? ITR_NUDGE_SENT : before, memory_order_release);
    itr_unlock(slot);
    return sent;
}

static int64_t delay_after(uint32_t nudges) {
    int64_t delay = STILL_NS;
    for (uint32_t i = 0; i < nudges && delay < MOST_NS; i++) {
        delay *= 2;
    }
    return delay < MOST_NS ? delay : MOST_NS;
}

/* The monitor alone writes what is `still_`. */
int64_t itr_unseen_look(struct itr_slot *slot, itr_ref ref) {
    uint32_t classes = atomic_load_explicit(&slot->exact, memory_order_relaxed) & COMES_BACK;
    if (classes == 0) {
        return 0;
    }
    if (itr_lock_ref(ref) == NULL) {
        return 0;
    }
    pid_t tid = slot->tid;
    itr_unlock(slot);
    int64_t now = itr_now_ns();
    uint64_t parks = atomic_load_explicit(&slot->parks, memory_order_relaxed);
    uint32_t exacts = atomic_load_explicit(&slot->exacts, memory_order_relaxed);
    uint32_t bound = atomic_load_explicit(&binds, memory_order_relaxed);
    uint32_t nudges = atomic_load_explicit(&slot->nudges, memory_order_relaxed);
    if (parks != slot->still_parks || exacts != slot->still_exacts || bound != slot->still_binds) {
        slot->still_parks = parks;
        slot->still_exacts = exacts;
        slot->still_binds = bound;
        slot->still_cpu_ns = cpu_ns(tid);
        slot->still_since_ns = now;
        atomic_store_explicit(&slot->nudges, 0, memory_order_relaxed);
        return STILL_NS;
    }
    int64_t delay = delay_after(nudges);
    int64_t left = slot->still_since_ns + delay - now;
    if (left > 0) {
        return left;
    }
    int64_t cpu = cpu_ns(tid);
    bool moved = cpu != slot->still_cpu_ns && nudges == 0; /* later on, it may be our signal that it has handled */
    slot->still_cpu_ns = cpu;
    slot->still_since_ns = now;
    if (moved || !itr_late_hold()) { /* not bound: it would make the call again where it is not seen either */
        return delay;
    }
    bool sent = may_be_ended(tid, classes) && nudge(ref);
    itr_late_release();
    if (sent) {
        atomic_store_explicit(&slot->nudges, ++nudges, memory_order_relaxed);
        if (nudges >= DOCTOR_NUDGES && (nudges & (nudges - 1)) == 0) {
            itr_signals_doctor(slot, nudges);
        }
    }
    return delay_after(nudges);
}
