/* What the CPython stub uses of the shim, in one table found by one symbol (itr_stub_api), so that a copy of another
 * version is refused as a whole. C programs use interruptible.h. */
#ifndef ITR_API_H
#define ITR_API_H

#include "flag_table.h"
#include "foreign.h"
#include "interruptible.h"
#include "park.h"

struct itr_stub_api {
    uint32_t abi;
    uint32_t slot_size; /* both sides were built from the same struct itr_slot, */
    uint32_t size;      /* and from this table: no call reaches beyond its end */
    struct itr_slot *(*self)(void);
    struct itr_slot *(*attach_self)(void);
    void (*detach_self)(void);
    itr_ref (*attach_other)(pthread_t thread, pid_t tid);
    void (*claim_self)(itr_ref ref);
    struct itr_slot *(*lock_thread)(pthread_t thread);
    struct itr_slot *(*lock_ref)(itr_ref ref);
    void (*unlock)(struct itr_slot *slot);
    void (*each_slot)(void (*visit)(struct itr_slot *, void *), void *arg);

    /* Set `bit` in the slot's pending flag, wake its thread, and watch it. */
    void (*raise)(itr_ref ref, uint32_t bit);
    /* Clear `bit`. False: a call was broken for it already, so it stays and will be delivered. */
    bool (*retract)(itr_ref ref, uint32_t bit);
    /* Clear `bit` because it is delivered or dropped by the slot's own thread. */
    void (*consume)(struct itr_slot *slot, uint32_t bit);
    /* Something pending became deliverable while the thread runs: have the monitor see to it. */
    void (*kick)(itr_ref ref);
    void (*mask_push)(struct itr_slot *slot, int level);
    void (*mask_pop)(struct itr_slot *slot, int level);

    void (*set_hooks)(bool (*row_suspended)(const struct itr_slot *),
                      int64_t (*on_running)(struct itr_slot *, itr_ref, uint32_t));
    /* Called by a thread that a wake-up signal has reached, in its wait. */
    void (*on_woken)(void (*hook)(void));
    /* End the main thread's wait for once, as any signal does whose handler the program has. */
    void (*wake_main)(void);
    /* No monitor from here on, until as many calls of monitor_allow(). A forked child of a process with hooks has none
     * until it has called monitor_allow() once. */
    void (*monitor_stop)(void);
    void (*monitor_allow)(void);
    int (*active)(void);
    bool (*preloaded)(void);
    int (*bind)(void);
    void (*bind_too)(const char *name, void (*wrapper)(void), void (*real)(void));
    void (*unbind)(void);
    int (*register_library)(const char *stem, int policy);
    bool (*foreign_known)(size_t at, struct itr_foreign_entry *entry);
    void (*foreign_name)(const struct itr_slot *slot, char *name, size_t size);
    int (*bound)(void);
    int (*signal_number)(void);
    bool (*signal_ours)(void);
    bool (*monitor_runs)(void);
    int (*monitor_error)(void);
    /* Leaving an exact call, with slot->nudge set: itr_park_settle(). */
    void (*settle)(struct itr_slot *slot);
    /* Around the start of a thread that is to take no signals. */
    void (*signals_block)(uint64_t *before);
    void (*signals_restore)(const uint64_t *before);
};

const struct itr_stub_api *itr_stub_api(void);

#endif
