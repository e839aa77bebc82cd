/* What the tests of the wake-up signal share: a read that waits, and is broken. */
#ifndef TESTS_BREAKS_H
#define TESTS_BREAKS_H

#include "support.h"

struct reader {
    int ends[2];
    ssize_t result;
    int error;
    bool full_mask, restore;
    _Atomic int seen;
};

/* Jobs of a worker. */
void clear(void *arg);   /* an int: what itr_clear() says */
void do_read(void *arg); /* a struct reader: one byte */
/* Parks, interrupts, sees it broken, clears. 0 or a line. */
int breaks(struct worker *w);
/* A signal to the process may be handled by any of its threads, a moment later. */
bool comes(_Atomic int *seen, int count);
/* From a child, to this process; or to one thread of it. The child, or -1. */
pid_t child_sends(int sig, bool queued, union sigval value, pid_t thread);

#endif
