/* A thread that waits in an exact call where nobody sees it. See unseen.c. */
#ifndef ITR_UNSEEN_H
#define ITR_UNSEEN_H

#include "flag_table.h"

/* The monitor's look at a thread that has something pending and is not parked. The delay in ns until the next one; 0:
 * this is none of these. No locks held. */
int64_t itr_unseen_look(struct itr_slot *slot, itr_ref ref);
/* Calls were bound that were not before: whoever was told in vain may be told again. */
void itr_unseen_bound(void);

#endif
