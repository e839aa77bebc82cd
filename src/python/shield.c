/* The program's own code inside ours. */
#include "core.h"

struct itr_slot *itr_shield(void) {
    struct itr_slot *slot = itr_api->self();
    if (slot != NULL) {
        itr_api->mask_push(slot, ITR_MASK_ALL);
        struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_relaxed);
        if (t != NULL) {
            itr_async_recall(t);
        }
    }
    return slot;
}

void itr_unshield(struct itr_slot *slot) {
    if (slot == NULL) {
        return;
    }
    /* Lowers the mask, then looks (both seq_cst). Pairs with raise_locked() in api.c: store pending, load mask. */
    itr_api->mask_pop(slot, ITR_MASK_ALL);
    if (atomic_load_explicit(&slot->pending, memory_order_seq_cst) != 0) {
        itr_api->kick(itr_ref_of(slot));
    }
}
