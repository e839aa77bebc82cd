/* What waits on descriptors share. */
#ifndef ITR_CALLS_FDSET_H
#define ITR_CALLS_FDSET_H

#include "signals.h"

#include <limits.h>
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

static inline int in_ms(const struct timespec *t) {
    return t->tv_sec > INT_MAX / 1000 - 1 ? INT_MAX : (int)(t->tv_sec * 1000 + (t->tv_nsec + 999999) / 1000000);
}

#endif
