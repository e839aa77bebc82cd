/* One lazy native thread. It repeats a wake-up until its target has left the park (after 100 us, 200 us, ...
 * 10 ms, in the end 1 s; after 5 ms when the wake-up cannot have been missed), and asks the CPython stub again and
 * again to inject into a target that runs Python code. It blocks all signals, holds no GIL, and ends when it has had
 * nothing to do for a while, before a fork, and before finalisation. */
#ifndef ITR_MONITOR_H
#define ITR_MONITOR_H

#include "park.h"

/* Watch `slot` (not locked by the caller) until nothing is pending for it. `woken`: what was done to wake it. */
void itr_monitor_watch(itr_ref ref, enum itr_wake woken);
/* Calls were bound that were not before: look at everything that is watched. Also called from constructors, with the
 * linker's lock held. */
void itr_monitor_rush(void);
/* Stop and join the thread; it starts again by itself when something is watched. */
void itr_monitor_stop(void);
void itr_monitor_after_fork(bool child);
bool itr_monitor_runs(void);
/* Why it cannot be started, an error number, while something is to be watched; else 0. Tries again first: nothing else
 * does until the next interrupt, and a process that has run out of threads may have some again. */
int itr_monitor_error(void);

/* Asked for a target that is not parked. Called without locks, without the GIL. The answer is the delay in ns until it
 * should be asked again, or 0 for "as you think fit". */
extern _Atomic(int64_t (*)(struct itr_slot *, itr_ref, uint32_t tries)) itr_on_running;

#endif
