/* The caller's own deadline, for a wait that takes a time and may have to be resumed after a stale wake-up. */
#ifndef ITR_REMAINING_H
#define ITR_REMAINING_H

#include "preload.h"

static inline void itr_own_deadline(struct timespec *deadline, const struct timespec *timeout) {
    itr_real.clock_gettime(CLOCK_MONOTONIC, deadline);
    deadline->tv_sec += timeout->tv_sec;
    deadline->tv_nsec += timeout->tv_nsec;
    if (deadline->tv_nsec >= 1000000000) {
        deadline->tv_sec++;
        deadline->tv_nsec -= 1000000000;
    }
}

/* What is left of it; false, and zero, when it has come. */
static inline bool itr_remaining(struct timespec *left, const struct timespec *deadline) {
    struct timespec now;
    itr_real.clock_gettime(CLOCK_MONOTONIC, &now);
    *left = (struct timespec){deadline->tv_sec - now.tv_sec, deadline->tv_nsec - now.tv_nsec};
    if (left->tv_nsec < 0) {
        left->tv_sec--;
        left->tv_nsec += 1000000000;
    }
    if (left->tv_sec < 0) {
        left->tv_sec = left->tv_nsec = 0;
    }
    return left->tv_sec != 0 || left->tv_nsec != 0;
}

#endif
