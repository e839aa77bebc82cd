/* What waits on descriptors share. */
#ifndef ITR_CALLS_FDSET_H
#define ITR_CALLS_FDSET_H

#include "preload.h"
#include "signals.h"

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* The program's temporary mask without our signal; NULL stays NULL. */
static inline const sigset_t *without_ours(const sigset_t *mask, sigset_t *copy) {
    if (mask == NULL) {
        return NULL;
    }
    *copy = *mask;
    itr_signals_strip(copy);
    return copy;
}

/* Does the temporary mask let in a signal that is blocked outside? Then its handler's running may be all that the
 * caller waits for, and an EINTR is handed on although a stale wake-up came too: one for nothing can be made good, one
 * that is kept back cannot. */
static inline bool lets_in(const sigset_t *mask) {
    sigset_t outside;
    if (mask == NULL || itr_real.pthread_sigmask(SIG_BLOCK, NULL, &outside) != 0) {
        return false;
    }
    for (int sig = 1; sig < NSIG; sig++) {
        if (sigismember(&outside, sig) == 1 && sigismember(mask, sig) == 0) {
            return true;
        }
    }
    return false;
}

/* Not even in the first page: the kernel says EFAULT. */
static inline bool is_nowhere(const void *pointer) { return (uintptr_t)pointer < 4096; }

static inline int in_ms(const struct timespec *t) {
    return t->tv_sec > INT_MAX / 1000 - 1 ? INT_MAX : (int)(t->tv_sec * 1000 + (t->tv_nsec + 999999) / 1000000);
}

#endif
