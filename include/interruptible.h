/* interruptible.h - interrupt a thread that is parked in a blocking libc call.
 *
 * The C API of libinterruptible.so, for C programs, authors of C extensions, and ctypes. The library interposes libc's
 * blocking calls (LD_PRELOAD, or by rebinding when it is loaded late). A thread that is *attached* has a slot in the
 * flag table; an interrupt sets the slot's pending flag and ends the call the thread is parked in.
 *
 * Result codes: functions returning int give ITR_OK (0) or a positive ITR_* code, and a negative errno value when they
 * fail. None of them sets errno. None of them aborts. Every function may be called from any thread; those marked
 * "async-signal-safe" also from a signal handler. None needs, takes or releases Python's GIL.
 */
#ifndef INTERRUPTIBLE_H
#define INTERRUPTIBLE_H

#include <pthread.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The layout and meaning of everything in this header and of the slot. A mismatch is refused, never guessed. */
#define ITR_ABI_VERSION 3u

#define ITR_OK 0          /* done; for itr_interrupt: recorded */
#define ITR_COALESCED 1   /* one was pending already: the two will be delivered as one */
#define ITR_INTERRUPTED 2 /* itr_checkpoint: stop what you do and return */

/* What a thread lets through; the larger value is the stricter one (DESIGN S7). */
#define ITR_MASK_NONE 0
#define ITR_MASK_BLOCKING 1 /* only blocking calls and checkpoints deliver */
#define ITR_MASK_ALL 2      /* nothing is delivered */

/* The ABI version this library was built with. Compare with ITR_ABI_VERSION before anything else. Async-signal-safe. */
uint32_t itr_abi_version(void);

/* 1 when libc's blocking calls of this process go through the library, 0 when it is merely loaded. */
int itr_active(void);

/* Cover a process that was not preloaded: point the libc calls of every object loaded by now at the library. Call it
 * again after loading more; it is cheap when nothing was. Returns how many calls were newly covered, or -ENOSYS when
 * this processor is not supported. Threads that are inside a call already are covered from their next one on. */
int itr_bind(void);
/* Take that back, everywhere. */
int itr_unbind(void);

/* Give the calling thread a slot, so that it can be interrupted. Idempotent. Returns ITR_OK or -ENOMEM.
 * In a thread attached this way every interrupted blocking call fails with errno ECANCELED, before it did anything,
 * and goes on failing until itr_clear(). (Threads that Python attaches raise an exception instead.) */
int itr_attach(void);

/* Give the slot back; whatever was pending is discarded. Happens by itself when the thread ends. */
int itr_detach(void);

/* Interrupt `thread`: record it, and wake the thread if it is parked. ITR_OK, ITR_COALESCED, or -ESRCH when the thread
 * is not attached (it may have ended). A pthread_t that was reused by a new thread never reaches the new one: its slot
 * is gone. For a Python thread this raises the default exception there. Does not need the GIL. */
int itr_interrupt(pthread_t thread);

/* 1 when an interrupt is pending for `thread`, 0 when not, -ESRCH when it is not attached. */
int itr_pending(pthread_t thread);

/* Drop what itr_interrupt() recorded for the calling thread. 1 when there was something, else 0. */
int itr_clear(void);

/* ITR_INTERRUPTED when the calling thread has a pending interrupt that its mask lets through, else ITR_OK. One load.
 * Does not consume it: in a C thread call itr_clear(), in a Python thread return to Python. Async-signal-safe. */
int itr_checkpoint(void);

/* Push a mask (ITR_MASK_*) for the calling thread; the strictest of the nested ones counts. Returns ITR_OK, -EINVAL
 * for another level, -ESRCH when not attached. Every push needs its pop with the same level. */
int itr_mask_push(int level);
int itr_mask_pop(int level);

/* Where a thread is. `call` is NULL when it is not parked, else a static string such as "recv". */
struct itr_where {
    const char *call;
    int fd;             /* the descriptor waited on, -1 when there is none or many */
    int mask;           /* ITR_MASK_* */
    int pending;        /* 0 or 1 */
    int exact;          /* 1: inside one of CPython's own blocking calls */
    int64_t since_ns;   /* CLOCK_MONOTONIC of the start of the park */
    uint64_t parks;     /* parks so far */
    int32_t native_id;  /* the kernel's thread id */
    int32_t wake_fails; /* wake-ups not acknowledged in time */
    char library[64];   /* parked: file name of the object that made the call, "" when it is the program itself */
};
int itr_where(pthread_t thread, struct itr_where *where);

/* What the waits of a library that is neither Python nor known to this one are told while an interrupt is pending. */
#define ITR_LIBRARY_ONCE 0 /* EINTR, once per interrupt (the default: it is safe for everybody) */
#define ITR_LIBRARY_FAIL                                                                                               \
    1 /* ECANCELED, as long as it is pending and the call could wait: for libraries that retry on EINTR */
#define ITR_LIBRARY_SLEEPS 2 /* sleeps end early as long as it is pending; other waits as ITR_LIBRARY_ONCE */
#define ITR_LIBRARY_SHUT                                                                                               \
    3 /* as ITR_LIBRARY_FAIL, and the sockets polled are shut down: for libraries that would take                      \
         the answer that comes late for that to their next question */
#define ITR_LIBRARY_POLLS                                                                                              \
    4 /* polls with a time-out end as if it had passed, once per interrupt; other waits as ITR_LIBRARY_ONCE: for       \
         libraries that retry on EINTR, and ask Python between two slices of their wait whether to go on */

/* Say how the library takes it whose file name begins with `stem`, followed by one of ".-_": "libpq" is both libpq.so.5
 * and libpq-e9b5c9ac.so.5.18. The latest registration counts, and before what is built in. Returns ITR_OK; -EINVAL when
 * `stem` is empty, contains a slash or is longer than 63 bytes, or for another policy; -ENOSPC after 64 of them. */
int itr_register_library(const char *stem, int policy);

#ifdef __cplusplus
}
#endif
#endif
