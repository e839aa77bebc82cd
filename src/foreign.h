/* What a call made by a foreign library (neither CPython nor a C thread that asked for it) is told when an interrupt is
 * pending. See foreign.def. */
#ifndef ITR_FOREIGN_H
#define ITR_FOREIGN_H

#include "flag_table.h"
#include "interruptible.h"

#include <stddef.h>

/* The policy (ITR_LIBRARY_*) of the library whose code is at `caller`. Called by the thread that owns the slot; takes
 * no lock, allocates nothing. */
int itr_foreign_policy(struct itr_slot *slot, const void *caller);

/* The file name, without folders, of the object that made the call in which the slot's thread waits; "" when it does
 * not wait, or the object is not known. It may take the loader's lock, so none may be held. */
void itr_foreign_name(const struct itr_slot *slot, char *name, size_t size);

/* The built-in table, for the docs and the Python package: false behind its end. */
struct itr_foreign_entry {
    const char *stem;
    int policy;
    const char *effect;
};
bool itr_foreign_known(size_t at, struct itr_foreign_entry *entry);

/* In the constructor: finds out how to find a caller's object. */
void itr_foreign_start(void);
/* In a forked child: whoever was registering a library is not there to unlock. */
void itr_foreign_after_fork(void);

#endif
