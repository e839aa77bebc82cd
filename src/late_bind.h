/* Linux: covering a process that was not preloaded. See late_bind.c. */
#ifndef ITR_LATE_BIND_H
#define ITR_LATE_BIND_H

#include <stdbool.h>

/* From our constructor. */
void itr_late_start(void);
/* Point the calls of every loaded object at the wrappers; look again only when objects have come or gone since. Nothing
 * to do when the library was preloaded. Not async-signal-safe. Returns the slots rebound by this call, or -errno. */
int itr_late_bind(void);
/* With the libc calls, also when preloaded: point extension modules' calls of `name`, one more function, at `wrapper`.
 * The interpreter and its own modules keep theirs. Once; before the first itr_late_bind() or again after it. */
void itr_late_bind_too(const char *name, void (*wrapper)(void), void (*real)(void));
/* Point them back. */
void itr_late_unbind(void);
void itr_late_before_fork(void);
void itr_late_after_fork(bool child);
/* Slots that point at the wrappers now. */
int itr_late_bound(void);
bool itr_late_wanted(void);
/* Do calls go to the wrappers now, preloaded or bound? If so, nobody unbinds them before itr_late_release(). Does not
 * wait: false also while somebody binds. */
bool itr_late_hold(void);
void itr_late_release(void);

#endif
