/* Who is calling? The object that a return address lies in, by its file name. */
#include "foreign.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#define STEM_SIZE 64
#define MOST_ADDED 64

static const struct itr_foreign_entry known[] = {
#define ITR_FOREIGN(stem, policy, effect) {stem, ITR_LIBRARY_##policy, effect},
#include "foreign.def"
#undef ITR_FOREIGN
};
#define N_KNOWN (sizeof known / sizeof *known)

/* What itr_register_library() added. Entries are written once, under the lock, and then published by the count. */
static struct added {
    char stem[STEM_SIZE];
    _Atomic int policy;
} added[MOST_ADDED];
static _Atomic uint32_t n_added;
static _Atomic uint32_t generation = 1; /* of all answers; slots remember theirs with it */
static pthread_mutex_t add_lock = PTHREAD_MUTEX_INITIALIZER;

/* An entry that was being written is not counted yet, and is written over. */
void itr_foreign_after_fork(void) { pthread_mutex_init(&add_lock, NULL); }

bool itr_foreign_known(size_t at, struct itr_foreign_entry *entry) {
    if (at >= N_KNOWN) {
        return false;
    }
    *entry = known[at];
    return true;
}

static const char *base_name(const char *path) {
    const char *slash = path == NULL ? NULL : strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* "libpq" is the stem of libpq.so.5 and of libpq-e9b5c9ac.so.5.18, not of libpqxx.so. One with a folder in front is
 * compared with the last folder too: two packages have a _psycopg. */
static bool has_stem(const char *path, const char *stem) {
    const char *name = base_name(path);
    if (strchr(stem, '/') != NULL) {
        do {
            name = name > path ? name - 1 : path;
        } while (name > path && name[-1] != '/');
    }
    size_t n = strlen(stem);
    return strncmp(name, stem, n) == 0 && strchr(".-_", name[n]) != NULL; /* the end of the name too */
}

/* glibc 2.35 finds the object without a lock. dladdr takes the loader's, which another thread may hold for as long as
 * some library's constructor takes. */
#ifdef DLFO_STRUCT_HAS_EH_DBASE
static int (*find_object)(void *, struct dl_find_object *); /* set before there are calls to ask about */
#else
static void *const find_object;
#endif

void itr_foreign_start(void) {
#ifdef DLFO_STRUCT_HAS_EH_DBASE
    *(void **)(void *)&find_object = dlsym(RTLD_DEFAULT, "_dl_find_object");
#endif
}

static const char *object_of(const void *address) {
#ifdef DLFO_STRUCT_HAS_EH_DBASE
    if (find_object != NULL) {
        struct dl_find_object found;
        return find_object((void *)(uintptr_t)address, &found) == 0 ? found.dlfo_link_map->l_name : NULL;
    }
#endif
    Dl_info info;
    return dladdr(address, &info) != 0 ? info.dli_fname : NULL;
}

static int policy_of_path(const char *path) {
    uint32_t n = atomic_load_explicit(&n_added, memory_order_acquire); /* pairs with the release in register */
    while (n-- > 0) {
        if (has_stem(path, added[n].stem)) {
            return atomic_load_explicit(&added[n].policy, memory_order_relaxed);
        }
    }
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (has_stem(path, known[i].stem)) {
            return known[i].policy;
        }
    }
    return ITR_LIBRARY_ONCE;
}

/* The last answer is remembered with the path that it is for: when a library is unloaded, the next one may have its
 * addresses. Only where to ask takes a lock is it remembered with the address. */
int itr_foreign_policy(struct itr_slot *slot, const void *caller) {
    /* Before the look-up: an answer that a registration overtakes is remembered as old. */
    uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
    bool remembered = slot->policy_generation == now;
    if (remembered && find_object == NULL && slot->policy_of == caller) {
        return slot->policy;
    }
    const char *path = object_of(caller);
    path = path == NULL ? "" : path;
    if (!remembered || strcmp(slot->policy_path, path) != 0) {
        slot->policy = policy_of_path(path);
        slot->policy_generation = now;
        size_t n = strnlen(path, sizeof slot->policy_path - 1); /* a longer one is looked up each time */
        memcpy(slot->policy_path, path, n);
        slot->policy_path[n] = '\0';
    }
    slot->policy_of = caller;
    return slot->policy;
}

void itr_foreign_name(const struct itr_slot *slot, char *name, size_t size) {
    uint64_t word = atomic_load_explicit(&slot->park, memory_order_acquire) & ~ITR_PARK_WAKING;
    const void *caller = atomic_load_explicit(&slot->caller, memory_order_relaxed);
    const char *found = word == 0 || caller == NULL ? NULL : base_name(object_of(caller));
    name[0] = '\0';
    if (found != NULL) {
        size_t n = strnlen(found, size - 1);
        memcpy(name, found, n);
        name[n] = '\0';
    }
    /* A call keeps its object from being unloaded. If this one has ended meanwhile, that may have been another's name,
     * or what is left of one: the word, which has the park's number in it, tells. */
    atomic_thread_fence(memory_order_acquire);
    if ((atomic_load_explicit(&slot->park, memory_order_relaxed) & ~ITR_PARK_WAKING) != word) {
        name[0] = '\0';
    }
}

EXPORT int itr_register_library(const char *stem, int policy) {
    if (stem == NULL || stem[0] == '\0' || strlen(stem) >= STEM_SIZE || strchr(stem, '/') != NULL ||
        policy < ITR_LIBRARY_ONCE || policy > ITR_LIBRARY_POLLS) {
        return -EINVAL;
    }
    int result = ITR_OK;
    pthread_mutex_lock(&add_lock);
    uint32_t n = atomic_load_explicit(&n_added, memory_order_relaxed);
    uint32_t at = 0;
    while (at < n && strcmp(added[at].stem, stem) != 0) {
        at++;
    }
    if (at == MOST_ADDED) {
        result = -ENOSPC;
    } else {
        if (at == n) {
            memcpy(added[at].stem, stem, strlen(stem) + 1);
        }
        atomic_store_explicit(&added[at].policy, policy, memory_order_relaxed);
        atomic_store_explicit(&n_added, at == n ? n + 1 : n, memory_order_release);
        atomic_fetch_add_explicit(&generation, 1, memory_order_release);
    }
    pthread_mutex_unlock(&add_lock);
    return result;
}
