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
static const char *object_of(const void *address) {
#ifdef DLFO_STRUCT_HAS_EH_DBASE
    typedef int (*find_function)(void *, struct dl_find_object *);
    static _Atomic(find_function) find;
    static _Atomic bool looked;
    if (!atomic_load_explicit(&looked, memory_order_acquire)) {
        union {
            void *data;
            find_function function;
        } symbol = {dlsym(RTLD_DEFAULT, "_dl_find_object")};
        atomic_store_explicit(&find, symbol.function, memory_order_relaxed);
        atomic_store_explicit(&looked, true, memory_order_release); /* pairs with the load above */
    }
    find_function function = atomic_load_explicit(&find, memory_order_relaxed);
    if (function != NULL) {
        struct dl_find_object found;
        if (function((void *)(uintptr_t)address, &found) != 0) {
            return NULL;
        }
        return found.dlfo_link_map->l_name;
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

int itr_foreign_policy(struct itr_slot *slot, const void *caller) {
    /* Before the look-up: an answer that a registration overtakes is remembered as old. */
    uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
    if (slot->policy_of != caller || slot->policy_generation != now) {
        const char *path = object_of(caller);
        slot->policy = path == NULL ? ITR_LIBRARY_ONCE : policy_of_path(path);
        slot->policy_of = caller;
        slot->policy_generation = now;
    }
    return slot->policy;
}

void itr_foreign_name(const void *caller, char *name, size_t size) {
    const char *found = caller == NULL ? NULL : base_name(object_of(caller));
    name[0] = '\0';
    if (found != NULL) {
        size_t n = strnlen(found, size - 1);
        memcpy(name, found, n);
        name[n] = '\0';
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
