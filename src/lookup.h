/* Look-ups of host names on threads of our own, so that whoever waits for one can leave.
 *
 * libc waits for the name server inside itself, where nothing can be interposed. So an attached thread hands its
 * look-up to a helper thread, on copies of all arguments, and waits for the helper in a way that we can end. What it
 * leaves behind then is finished and freed by the helper. */
#ifndef ITR_LOOKUP_H
#define ITR_LOOKUP_H

#include <locale.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* The first member of a call's own structure, which holds the copies and, later, the result. */
struct itr_lookup {
    void (*call)(struct itr_lookup *); /* libc's function, on the copies */
    void (*drop)(struct itr_lookup *); /* frees a result that nobody has taken; NULL: there is nothing to free */
    int error, h_error;                /* errno and h_errno: the caller's before the call, then what it made of them */

    /* -- lookup.c's -- */
    sem_t wake; /* posted for the caller: its turn has come, the look-up is done, the helper is gone (fork) */
    _Atomic unsigned left;
    locale_t locale;
    struct itr_lookup *next; /* in line */
    bool in_line;
    bool orphan; /* the process is a forked child that has no helper */
};

/* `size` bytes, of which the first are a struct itr_lookup. NULL when memory ran out: make the call yourself. */
void *itr_lookup_new(size_t size, void (*call)(struct itr_lookup *), void (*drop)(struct itr_lookup *));

/* Make the call, announced as `name`, and wait for it. True: done; take the result, then call itr_lookup_end(). False:
 * interrupted; errno says so, and the look-up is not the caller's any more. Attached threads only. */
bool itr_look_up(struct itr_lookup *l, const char *name);

/* The result has been taken. Sets errno and h_errno as the call did. */
void itr_lookup_end(struct itr_lookup *l);

/* In the child. */
void itr_lookups_after_fork(void);

#endif
