/* The C API (interruptible.h), and the table that the CPython stub uses (api.h). */
#include "api.h"

#include "foreign.h"
#include "late_bind.h"
#include "monitor.h"
#include "preload.h"
#include "signals.h"

#include <errno.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT uint32_t itr_abi_version(void) { return ITR_ABI_VERSION; }

EXPORT int itr_active(void) { return itr_preloaded() || itr_late_bound() > 0 ? 1 : 0; }

EXPORT int itr_bind(void) { return itr_late_bind(); }

EXPORT int itr_unbind(void) {
    itr_late_unbind();
    return ITR_OK;
}

EXPORT int itr_attach(void) {
    bool fresh = itr_self == NULL;
    struct itr_slot *slot = itr_attach_self();
    if (slot == NULL) {
        return -ENOMEM;
    }
    if (fresh && atomic_load_explicit(&slot->user, memory_order_relaxed) == NULL) {
        slot->strict = true;
    }
    return ITR_OK;
}

EXPORT int itr_detach(void) {
    itr_detach_self();
    return ITR_OK;
}

/* Record, then wake: the order the protocol in park.c relies on. Slot locked. True when nothing of `bit` was pending.
 */
static bool raise_locked(struct itr_slot *slot, uint32_t bit, enum itr_wake *woken) {
    if (atomic_load_explicit(&slot->pending, memory_order_relaxed) == 0) {
        atomic_store_explicit(&slot->foreign_done, 0, memory_order_relaxed);
        /* Not `committed`: a target that is about to look at `pending` again, for an interrupt that was taken back just
         * now, breaks its call for this one instead, and then this one must not be taken back (tests/model). */
    }
    bool fresh = (atomic_fetch_or_explicit(&slot->pending, bit, memory_order_seq_cst) & bit) == 0;
    *woken = itr_wake_locked(slot);
    return fresh;
}

EXPORT int itr_interrupt(pthread_t thread) {
    struct itr_slot *slot = itr_lock_thread(thread);
    if (slot == NULL) {
        return -ESRCH;
    }
    enum itr_wake woken;
    bool fresh = raise_locked(slot, ITR_PENDING_API, &woken);
    itr_ref ref = itr_ref_of(slot);
    itr_unlock(slot);
    itr_monitor_watch(ref, woken);
    return fresh ? ITR_OK : ITR_COALESCED;
}

EXPORT int itr_pending(pthread_t thread) {
    struct itr_slot *slot = itr_lock_thread(thread);
    if (slot == NULL) {
        return -ESRCH;
    }
    int answer = atomic_load_explicit(&slot->pending, memory_order_relaxed) != 0;
    itr_unlock(slot);
    return answer;
}

static void consume(struct itr_slot *slot, uint32_t bit) {
    atomic_fetch_and_explicit(&slot->pending, ~bit, memory_order_seq_cst);
    atomic_store_explicit(&slot->committed, 0, memory_order_seq_cst);
}

EXPORT int itr_clear(void) {
    struct itr_slot *slot = itr_self;
    if (slot == NULL) {
        return 0;
    }
    bool was = (atomic_load_explicit(&slot->pending, memory_order_relaxed) & ITR_PENDING_API) != 0;
    consume(slot, ITR_PENDING_API);
    return was;
}

EXPORT int itr_checkpoint(void) {
    const struct itr_slot *slot = itr_self;
    if (slot == NULL || atomic_load_explicit(&slot->pending, memory_order_relaxed) == 0 ||
        atomic_load_explicit(&slot->mask, memory_order_relaxed) >= ITR_MASK_ALL) {
        return ITR_OK;
    }
    return ITR_INTERRUPTED;
}

static void update_mask(struct itr_slot *slot) {
    uint32_t level = slot->mask_depth[ITR_MASK_ALL] != 0        ? ITR_MASK_ALL
                     : slot->mask_depth[ITR_MASK_BLOCKING] != 0 ? ITR_MASK_BLOCKING
                                                                : ITR_MASK_NONE;
    /* seq_cst: whoever lowers it loads `pending` next (DESIGN section 3, leaving a "do not inject" state). */
    atomic_store_explicit(&slot->mask, level, memory_order_seq_cst);
}

static void mask_push(struct itr_slot *slot, int level) {
    slot->mask_depth[level]++;
    update_mask(slot);
}

static void mask_pop(struct itr_slot *slot, int level) {
    if (slot->mask_depth[level] > 0) {
        slot->mask_depth[level]--;
    }
    update_mask(slot);
}

EXPORT int itr_mask_push(int level) {
    if (level != ITR_MASK_BLOCKING && level != ITR_MASK_ALL) {
        return -EINVAL;
    }
    if (itr_self == NULL) {
        return -ESRCH;
    }
    mask_push(itr_self, level);
    return ITR_OK;
}

static void kick(itr_ref ref) { itr_monitor_watch(ref, ITR_WAKE_NONE); }

EXPORT int itr_mask_pop(int level) {
    struct itr_slot *slot = itr_self;
    if (level != ITR_MASK_BLOCKING && level != ITR_MASK_ALL) {
        return -EINVAL;
    }
    if (slot == NULL) {
        return -ESRCH;
    }
    if (slot->mask_depth[level] == 0) {
        return -EINVAL;
    }
    mask_pop(slot, level);
    if (atomic_load_explicit(&slot->pending, memory_order_seq_cst) != 0) {
        kick(itr_ref_of(slot));
    }
    return ITR_OK;
}

EXPORT int itr_where(pthread_t thread, struct itr_where *where) {
    struct itr_slot *slot = itr_lock_thread(thread);
    if (slot == NULL) {
        return -ESRCH;
    }
    bool parked = atomic_load_explicit(&slot->park, memory_order_acquire) != 0;
    where->call = parked ? atomic_load_explicit(&slot->call, memory_order_relaxed) : NULL;
    where->fd = parked ? atomic_load_explicit(&slot->fd, memory_order_relaxed) : -1;
    where->mask = (int)atomic_load_explicit(&slot->mask, memory_order_relaxed);
    where->pending = atomic_load_explicit(&slot->pending, memory_order_relaxed) != 0;
    where->exact = atomic_load_explicit(&slot->exact, memory_order_relaxed) != 0;
    where->since_ns = atomic_load_explicit(&slot->since_ns, memory_order_relaxed);
    where->parks = atomic_load_explicit(&slot->parks, memory_order_relaxed);
    where->native_id = slot->tid;
    where->wake_fails = (int32_t)slot->wake_fails;
    itr_unlock(slot);
    itr_foreign_name(slot, where->library, sizeof where->library); /* it may take the loader's lock */
    return ITR_OK;
}

/* ---- the stub's table
 * ------------------------------------------------------------------------------------------------------ */

static struct itr_slot *self(void) { return itr_self; }

static void raise_bit(itr_ref ref, uint32_t bit) {
    struct itr_slot *slot = itr_lock_ref(ref);
    if (slot != NULL) {
        enum itr_wake woken;
        raise_locked(slot, bit, &woken);
        itr_unlock(slot);
        itr_monitor_watch(ref, woken);
    }
}

/* Against take_break() in park.c: clear, then look whether the target has committed itself. One of the two sees the
 * other; when both do, the target's second look at `pending` decides, and the retraction fails only if it had passed.
 */
static bool retract(itr_ref ref, uint32_t bit) {
    struct itr_slot *slot = itr_lock_ref(ref);
    if (slot == NULL) {
        return true;
    }
    atomic_fetch_and_explicit(&slot->pending, ~bit, memory_order_seq_cst);
    enum itr_wake woken = ITR_WAKE_NONE;
    bool done = atomic_load_explicit(&slot->committed, memory_order_seq_cst) == 0;
    if (!done) {
        /* The target may have seen the cleared flag and gone back to sleep: it needs waking again. */
        atomic_fetch_or_explicit(&slot->pending, bit, memory_order_seq_cst);
        woken = itr_wake_locked(slot);
    }
    itr_unlock(slot);
    if (!done) {
        itr_monitor_watch(ref, woken);
    }
    return done;
}

static void set_hooks(bool (*row_suspended)(const struct itr_slot *),
                      int64_t (*on_running)(struct itr_slot *, itr_ref, uint32_t)) {
    atomic_store_explicit(&itr_row_suspended, row_suspended, memory_order_release);
    atomic_store_explicit(&itr_on_running, on_running, memory_order_release);
}

static void on_woken(void (*hook)(void)) { atomic_store_explicit(&itr_on_woken, hook, memory_order_release); }

static void monitor_allow(void) { itr_monitor_after_fork(false); }

EXPORT const struct itr_stub_api *itr_stub_api(void) {
    static const struct itr_stub_api api = {
        .abi = ITR_ABI_VERSION,
        .slot_size = sizeof(struct itr_slot),
        .size = sizeof(struct itr_stub_api),
        .self = self,
        .attach_self = itr_attach_self,
        .detach_self = itr_detach_self,
        .attach_other = itr_attach_other,
        .claim_self = itr_claim_self,
        .lock_thread = itr_lock_thread,
        .lock_ref = itr_lock_ref,
        .unlock = itr_unlock,
        .each_slot = itr_each_slot,
        .raise = raise_bit,
        .retract = retract,
        .consume = consume,
        .kick = kick,
        .mask_push = mask_push,
        .mask_pop = mask_pop,
        .set_hooks = set_hooks,
        .on_woken = on_woken,
        .wake_main = itr_signal_main,
        .monitor_stop = itr_monitor_stop,
        .monitor_allow = monitor_allow,
        .active = itr_active,
        .preloaded = itr_preloaded,
        .bind = itr_late_bind,
        .bind_too = itr_late_bind_too,
        .unbind = itr_late_unbind,
        .register_library = itr_register_library,
        .foreign_known = itr_foreign_known,
        .foreign_name = itr_foreign_name,
        .bound = itr_late_bound,
        .signal_number = itr_signal_number,
        .signal_ours = itr_signals_ours,
        .monitor_runs = itr_monitor_runs,
        .monitor_error = itr_monitor_error,
        .settle = itr_park_settle,
        .signals_block = itr_signals_block,
        .signals_restore = itr_signals_restore,
    };
    return &api;
}
