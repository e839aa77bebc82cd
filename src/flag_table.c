/* The flag table. Slots live in chunks that double in size and are never freed, so a pointer to a slot stays valid for
 * ever and any reader may look at a slot without a lock; `life` tells whether it is still the same thread's.
 *
 * Two kinds of lock, taken in this order: the table lock (hash, free list, chunks), then one slot's lock. Neither is
 * held across malloc, dl* or Python; chunks come from mmap, before the table lock is taken. */
#include "flag_table.h"

#include "interruptible.h"
#include "monitor.h"
#include "self_pipe.h"
#include "signals.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FIRST_CHUNK 64u
#define CHUNKS 26u
#define BUCKETS 16384u /* 10,000 threads fill it to 0.6; more only lengthen the chains */

_Thread_local struct itr_slot *itr_self;

static _Atomic(struct itr_slot *) chunks[CHUNKS];
static _Atomic uint32_t slots_made;

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t buckets[BUCKETS]; /* under table_lock: index + 1 */
static uint32_t free_list;        /* under table_lock: index + 1 */

static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static bool exit_key_made;

static uint32_t bucket_of(pthread_t thread) {
    /* A pthread_t is an address: its low bits are alike for all threads. */
    uint64_t bits = (uint64_t)thread;
    return (uint32_t)((bits * UINT64_C(0x9E3779B97F4A7C15)) >> 40) % BUCKETS;
}

/* Chunk k holds FIRST_CHUNK << k slots. */
static void locate(uint32_t index, uint32_t *chunk, uint32_t *offset) {
    uint32_t rest = index / FIRST_CHUNK + 1;
    uint32_t k = 31u - (uint32_t)__builtin_clz(rest);
    *chunk = k;
    *offset = index - FIRST_CHUNK * ((1u << k) - 1u);
}

struct itr_slot *itr_slot_at(uint32_t index) {
    uint32_t chunk = 0, offset = 0;
    locate(index, &chunk, &offset);
    /* acquire pairs with the release in make_slot: the chunk's zeroed memory is visible. */
    struct itr_slot *base = atomic_load_explicit(&chunks[chunk], memory_order_acquire);
    return base + offset;
}

struct itr_slot *itr_slot_of_ref(itr_ref ref) {
    uint32_t index = (uint32_t)(ref >> 32);
    if (ref == 0 || index >= atomic_load_explicit(&slots_made, memory_order_acquire)) {
        return NULL;
    }
    return itr_slot_at(index);
}

static void *map_chunk(uint32_t chunk) {
    size_t size = sizeof(struct itr_slot) * ((size_t)FIRST_CHUNK << chunk);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* A slot off the free list, or a new one. Table lock held; *spare is a mapped chunk that may be used up. */
static struct itr_slot *take_slot(void **spare, uint32_t spare_chunk) {
    if (free_list != 0) {
        struct itr_slot *slot = itr_slot_at(free_list - 1);
        free_list = slot->hash_next;
        return slot;
    }
    uint32_t made = atomic_load_explicit(&slots_made, memory_order_relaxed);
    uint32_t chunk = 0, offset = 0;
    locate(made, &chunk, &offset);
    if (chunk >= CHUNKS) {
        return NULL;
    }
    if (atomic_load_explicit(&chunks[chunk], memory_order_relaxed) == NULL) {
        if (*spare == NULL || spare_chunk != chunk) {
            return NULL;
        }
        atomic_store_explicit(&chunks[chunk], *spare, memory_order_release);
        *spare = NULL;
    }
    struct itr_slot *slot = itr_slot_at(made);
    slot->index = made;
    slot->pipe[0] = slot->pipe[1] = -1;
    pthread_mutex_init(&slot->lock, NULL);
    atomic_store_explicit(&slots_made, made + 1, memory_order_release);
    return slot;
}

static struct itr_slot *find(pthread_t thread) {
    for (uint32_t next = buckets[bucket_of(thread)]; next != 0;) {
        struct itr_slot *slot = itr_slot_at(next - 1);
        if (pthread_equal(slot->thread, thread)) {
            return slot;
        }
        next = slot->hash_next;
    }
    return NULL;
}

static void unlink_slot(struct itr_slot *slot) {
    uint32_t *link = &buckets[bucket_of(slot->thread)];
    while (*link != 0) {
        struct itr_slot *at = itr_slot_at(*link - 1);
        if (at == slot) {
            *link = slot->hash_next;
            slot->hash_next = 0;
            return;
        }
        link = &at->hash_next;
    }
}

/* Table lock held. */
static void begin_life(struct itr_slot *slot, pthread_t thread, pid_t tid, bool adopted) {
    pthread_mutex_lock(&slot->lock);
    slot->thread = thread;
    slot->tid = tid;
    slot->adopted = adopted;
    slot->life++;
    if (slot->life == 0) {
        slot->life = 1; /* an itr_ref of 0 means none */
    }
    atomic_store_explicit(&slot->pending, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->mask, ITR_MASK_NONE, memory_order_relaxed);
    atomic_store_explicit(&slot->exact, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->committed, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->foreign_done, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->sig_sent, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->sig_seen, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->parks, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->user, NULL, memory_order_relaxed);
    atomic_store_explicit(&slot->piped, false, memory_order_relaxed);
    memset(slot->mask_depth, 0, sizeof slot->mask_depth);
    slot->on_break = NULL;
    slot->on_break_arg = NULL;
    slot->break_errno = 0;
    slot->fake_clock = slot->join_row = slot->strict = slot->unbreakable = slot->until_kept = slot->making_pipe = false;
    slot->until_ns = 0;
    slot->wake_fails = 0;
    slot->nudged = 0;
    atomic_store_explicit(&slot->nudge, ITR_NUDGE_NONE, memory_order_relaxed);
    atomic_store_explicit(&slot->nudges, 0, memory_order_relaxed);
    /* Not `exacts`: a number that it had in an earlier life would look like no progress. */
    slot->program_blocks = false;
    atomic_store_explicit(&slot->live, 1, memory_order_release);
    slot->hash_next = buckets[bucket_of(thread)];
    buckets[bucket_of(thread)] = slot->index + 1;
    pthread_mutex_unlock(&slot->lock);
}

/* End a life: from here on no look-up finds the slot, and every itr_ref to it is stale. A waker that holds the lock is
 * waited for, so none can signal the thread after this returns: the thread may then end. Table lock held. A slot in the
 * hash is live and one that is not is not there, so whoever ends a life is the only one to release the slot. */
static void end_life(struct itr_slot *slot) {
    unlink_slot(slot);
    pthread_mutex_lock(&slot->lock);
    atomic_store_explicit(&slot->live, 0, memory_order_release);
    atomic_store_explicit(&slot->pending, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->park, 0, memory_order_relaxed);
    slot->life++; /* begin_life increments again; this one makes refs stale now */
    pthread_mutex_unlock(&slot->lock);
}

/* After end_life, by the thread that called it, without the table lock. */
static void release_slot(struct itr_slot *slot) {
    itr_pipe_release(slot);
    pthread_mutex_lock(&table_lock);
    slot->hash_next = free_list;
    free_list = slot->index + 1;
    pthread_mutex_unlock(&table_lock);
}

static void at_thread_exit(void *unused) {
    (void)unused;
    itr_detach_self();
}

static void make_exit_key(void) { exit_key_made = pthread_key_create(&exit_key, at_thread_exit) == 0; }

/* A slot of this pthread_t may be a dead thread's that nobody told us about (attached from outside, never adopted). Its
 * number was reused by another, which must not inherit anything: the tid tells them apart. A slot that its thread has
 * adopted ends with that thread; another tid of the caller's is out of date as long as it lives. Table lock held. */
static bool is_same_thread(const struct itr_slot *slot, pid_t tid, bool self) {
    if (self) {
        return slot->tid == tid && !slot->adopted;
    }
    return tid == 0 || slot->tid == tid ||
           (slot->adopted && syscall(SYS_tgkill, (long)getpid(), (long)slot->tid, 0L) == 0);
}

/* Look-up, end of a dead thread's life and the new one are one step: a thread attaches itself while others attach it,
 * and either may come first. *ref is read in it too, for the thread may detach right behind it. */
static struct itr_slot *attach(pthread_t thread, pid_t tid, bool self, itr_ref *ref) {
    void *spare = NULL;
    uint32_t spare_chunk = 0, offset = 0;
    for (;;) {
        struct itr_slot *stale = NULL;
        pthread_mutex_lock(&table_lock);
        struct itr_slot *slot = find(thread);
        if (slot != NULL && !is_same_thread(slot, tid, self)) {
            end_life(slot);
            stale = slot;
            slot = NULL;
        }
        if (slot == NULL) {
            slot = take_slot(&spare, spare_chunk);
            if (slot != NULL) {
                begin_life(slot, thread, tid, self);
            }
        } else if (self) {
            pthread_mutex_lock(&slot->lock);
            slot->adopted = true;
            pthread_mutex_unlock(&slot->lock);
        }
        *ref = slot == NULL ? 0 : itr_ref_of(slot);
        uint32_t made = atomic_load_explicit(&slots_made, memory_order_relaxed);
        pthread_mutex_unlock(&table_lock);
        if (stale != NULL) {
            release_slot(stale);
        }
        if (spare != NULL) { /* somebody else mapped that chunk meanwhile, or freed a slot */
            munmap(spare, sizeof(struct itr_slot) * ((size_t)FIRST_CHUNK << spare_chunk));
            spare = NULL;
        }
        if (slot != NULL) {
            return slot;
        }
        locate(made, &spare_chunk, &offset);
        spare = spare_chunk < CHUNKS ? map_chunk(spare_chunk) : NULL;
        if (spare == NULL) {
            return NULL;
        }
    }
}

struct itr_slot *itr_attach_self(void) {
    if (itr_self != NULL) {
        return itr_self;
    }
    int saved = errno;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    pthread_once(&exit_key_once, make_exit_key);
    itr_ref ref = 0;
    struct itr_slot *slot = attach(pthread_self(), tid, true, &ref);
    if (slot != NULL) {
        itr_self = slot;
        itr_signals_attach(slot);
        if (exit_key_made) {
            pthread_setspecific(exit_key, slot);
        }
    }
    errno = saved;
    return slot;
}

itr_ref itr_attach_other(pthread_t thread, pid_t tid) {
    int saved = errno;
    itr_ref ref = 0;
    (void)attach(thread, tid, false, &ref);
    errno = saved;
    return ref;
}

void itr_claim_self(itr_ref ref) {
    pthread_mutex_lock(&table_lock);
    struct itr_slot *slot = find(pthread_self());
    if (slot != NULL && itr_ref_of(slot) == ref && slot->tid == 0) {
        pthread_mutex_lock(&slot->lock);
        slot->tid = (pid_t)syscall(SYS_gettid);
        pthread_mutex_unlock(&slot->lock);
    }
    pthread_mutex_unlock(&table_lock);
}

void itr_detach_self(void) {
    struct itr_slot *slot = itr_self;
    if (slot == NULL) {
        return;
    }
    itr_self = NULL; /* whatever blocks from here on is a plain call */
    if (exit_key_made) {
        pthread_setspecific(exit_key, NULL);
    }
    itr_signals_detach(slot);
    pthread_mutex_lock(&table_lock);
    end_life(slot);
    pthread_mutex_unlock(&table_lock);
    release_slot(slot);
}

struct itr_slot *itr_lock_thread(pthread_t thread) {
    pthread_mutex_lock(&table_lock);
    struct itr_slot *slot = find(thread);
    if (slot != NULL) {
        pthread_mutex_lock(&slot->lock);
    }
    pthread_mutex_unlock(&table_lock);
    return slot;
}

struct itr_slot *itr_lock_ref(itr_ref ref) {
    struct itr_slot *slot = itr_slot_of_ref(ref);
    if (slot == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&slot->lock);
    if (slot->life != (uint32_t)ref || atomic_load_explicit(&slot->live, memory_order_relaxed) == 0) {
        pthread_mutex_unlock(&slot->lock);
        return NULL;
    }
    return slot;
}

void itr_unlock(struct itr_slot *slot) { pthread_mutex_unlock(&slot->lock); }

void itr_each_slot(void (*visit)(struct itr_slot *, void *), void *arg) {
    uint32_t made = atomic_load_explicit(&slots_made, memory_order_acquire);
    for (uint32_t i = 0; i < made; i++) {
        struct itr_slot *slot = itr_slot_at(i);
        if (atomic_load_explicit(&slot->live, memory_order_acquire) != 0) {
            visit(slot, arg);
        }
    }
}

/* Fork. The table lock is held across it, so the hash is whole in the child. A slot's lock may be held by another
 * thread at that moment; the child has no such thread, so it makes all of them anew. A slot whose thread was ending is
 * in neither the hash nor the free list, and still has its pipe: that is found by going through all. */
void itr_table_before_fork(void) { pthread_mutex_lock(&table_lock); }

void itr_table_after_fork(bool child) {
    if (!child) {
        pthread_mutex_unlock(&table_lock);
        return;
    }
    pthread_mutex_unlock(&table_lock); /* taken by this very thread, before the fork */
    uint32_t made = atomic_load_explicit(&slots_made, memory_order_relaxed);
    free_list = 0;
    for (uint32_t i = 0; i < made; i++) {
        struct itr_slot *slot = itr_slot_at(i);
        pthread_mutex_init(&slot->lock, NULL);
        slot->watched = false; /* the monitor's list starts anew; a slot that is free may still have been on it */
        itr_pipe_forget(slot); /* inherited: shared with the parent, so closed and never written */
        if (slot == itr_self) {
            slot->tid = (pid_t)syscall(SYS_gettid);
            slot->adopted = true;
            /* A wake-up that was under way belongs to the parent. */
            atomic_fetch_and_explicit(&slot->park, ~ITR_PARK_WAKING, memory_order_relaxed);
            atomic_store_explicit(&slot->sig_seen, atomic_load_explicit(&slot->sig_sent, memory_order_relaxed),
                                  memory_order_relaxed);
            atomic_store_explicit(&slot->nudge, ITR_NUDGE_NONE, memory_order_relaxed);
            continue;
        }
        if (atomic_load_explicit(&slot->live, memory_order_relaxed) != 0) {
            unlink_slot(slot);
            slot->life++;
            atomic_store_explicit(&slot->live, 0, memory_order_relaxed);
            atomic_store_explicit(&slot->pending, 0, memory_order_relaxed);
            atomic_store_explicit(&slot->park, 0, memory_order_relaxed);
        }
        slot->hash_next = free_list;
        free_list = slot->index + 1;
    }
}
