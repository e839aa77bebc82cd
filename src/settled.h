/* Linux: which objects has the dynamic linker done with? */
#ifndef ITR_SETTLED_H
#define ITR_SETTLED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From our constructor. */
void itr_settled_start(void);
/* The first so many objects that dl_iterate_phdr names are complete. `subs`: its count of those that went. */
size_t itr_settled_count(unsigned long long subs);
/* dl_iterate_phdr has named `count` objects. */
void itr_settled_listed(size_t count, unsigned long long subs);
/* Is this RELRO range still to be closed? Then the linker is at work in the object. */
bool itr_relro_is_open(uintptr_t start, uintptr_t end);

#endif
