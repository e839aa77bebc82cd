/* Helper threads for look-ups.
 *
 * A thread per look-up, started by the thread that waits for it: so it has that thread's network namespace,
 * credentials and processors, and nothing idles between look-ups. Next to asking a name server, and even to reading
 * /etc/hosts, starting it is cheap.
 *
 * The structure belongs to the caller and to the helper, and is freed by the one that leaves last. Each sets its bit in
 * `left` by a fetch_or as its last access. The two are atomic operations on one word, so one of them comes second, that
 * one alone reads the other's bit, and it frees: exactly once, and nobody looks at it afterwards. acq_rel: what the
 * first has written (the helper its result, the caller that it took it) is seen by the second, which frees it. */
#include "lookup.h"

#include "interruptible.h"
#include "park.h"
#include "preload.h"
#include "signals.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define HELPER_LEFT 1u
#define CALLER_LEFT 2u /* with the result */
#define ABANDONED 4u   /* the caller left without it */

/* A helper that was abandoned runs until the name server answers or libc gives up, which may take minutes. While as
 * many as this are running, a new look-up waits in line for one of them to end; what other threads were waiting for at
 * that moment may still be abandoned, so there are never more than this plus one for each thread. */
#define MOST_ABANDONED 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, and `next` and `in_line` */
static int abandoned; /* -1 for a moment, when a helper ends before its caller has counted it */
static struct itr_lookup *line;

/* What the calling thread waits for, for a fork by a signal handler that runs on top of it. */
static _Thread_local struct itr_lookup *current;

static int most_abandoned(void) {
    static _Atomic int known;
    int most = atomic_load_explicit(&known, memory_order_relaxed);
    if (most == 0) {
        const char *wish = secure_getenv("INTERRUPTIBLE_MAX_LOOKUPS");
        long value = wish == NULL ? 0 : strtol(wish, NULL, 10);
        most = value > 0 && value <= INT_MAX ? (int)value : MOST_ABANDONED;
        atomic_store_explicit(&known, most, memory_order_relaxed); /* two threads would store the same */
    }
    return most;
}

void *itr_lookup_new(size_t size, void (*call)(struct itr_lookup *), void (*drop)(struct itr_lookup *)) {
    int saved = errno;
    struct itr_lookup *l = calloc(1, size);
    if (l != NULL && sem_init(&l->wake, 0, 0) != 0) {
        free(l);
        l = NULL;
    }
    if (l != NULL) {
        /* A locale of the thread's own decides how AI_IDN reads a name. The program may free it before an abandoned
         * helper has ended. */
        locale_t own = uselocale((locale_t)0);
        l->locale = own == LC_GLOBAL_LOCALE ? (locale_t)0 : duplocale(own);
        l->call = call;
        l->drop = drop;
        l->error = saved;
        l->h_error = h_errno;
    }
    errno = saved;
    return l;
}

static void destroy(struct itr_lookup *l) {
    if (l->drop != NULL) {
        l->drop(l);
    }
    if (l->locale != (locale_t)0) {
        freelocale(l->locale);
    }
    sem_destroy(&l->wake);
    free(l);
}

static void perform(struct itr_lookup *l) {
    errno = l->error;
    h_errno = l->h_error;
    l->call(l);
    l->error = errno;
    l->h_error = h_errno;
}

/* ---- waiting in line --------------------------------------------------------------------------------------------- */

/* False: l->wake will be posted when its turn has come. */
static bool may_start(struct itr_lookup *l) {
    int most = most_abandoned();
    pthread_mutex_lock(&lock);
    l->in_line = abandoned >= most;
    if (l->in_line) {
        struct itr_lookup **end = &line;
        while (*end != NULL) {
            end = &(*end)->next;
        }
        *end = l;
    }
    bool answer = !l->in_line;
    pthread_mutex_unlock(&lock);
    return answer;
}

/* When this returns nobody else will touch `l`: whoever has called it up did so under the lock. */
static void leave_line(struct itr_lookup *l) {
    pthread_mutex_lock(&lock);
    for (struct itr_lookup **at = &line; l->in_line && *at != NULL; at = &(*at)->next) {
        if (*at == l) {
            *at = l->next;
            break;
        }
    }
    l->in_line = false;
    pthread_mutex_unlock(&lock);
}

static void count_abandoned(int change) {
    int most = most_abandoned();
    pthread_mutex_lock(&lock);
    abandoned += change;
    while (line != NULL && abandoned < most) {
        struct itr_lookup *first = line;
        line = first->next;
        first->in_line = false;
        sem_post(&first->wake);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- the helper -------------------------------------------------------------------------------------------------- */

static void *help(void *arg) {
    struct itr_lookup *l = arg;
    prctl(PR_SET_NAME, "itr-resolver");
    if (l->locale != (locale_t)0) {
        uselocale(l->locale);
    }
    perform(l);
    uselocale(LC_GLOBAL_LOCALE);
    sem_post(&l->wake);
    unsigned before = atomic_fetch_or_explicit(&l->left, HELPER_LEFT, memory_order_acq_rel);
    if (before != 0) {
        destroy(l);
    }
    if (before == ABANDONED) {
        count_abandoned(-1);
    }
    return NULL;
}

/* All signals blocked: the program's handlers run on the program's threads. */
static bool start(struct itr_lookup *l) {
    pthread_t thread;
    pthread_attr_t attr;
    uint64_t before;
    if (pthread_attr_init(&attr) != 0) {
        return false;
    }
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    itr_signals_block(&before);
    bool started = pthread_create(&thread, &attr, help, l) == 0;
    itr_signals_restore(&before);
    pthread_attr_destroy(&attr);
    return started;
}

/* ---- the caller -------------------------------------------------------------------------------------------------- */

/* Until `wake` is posted. False: the park was broken. libc's resolver goes on waiting after a signal of the program's,
 * and so does this. */
static bool await(struct itr_lookup *l, struct itr_park *p) {
    for (;;) {
        int result = -1;
        /* In the 23rd century, for a waker to pull. */
        if (itr_park_enter_until(p, (struct timespec){(time_t)1 << 33, 0})) {
            result = itr_real.sem_timedwait(&l->wake, &p->slot->deadline);
            itr_park_leave(p, result != 0);
        }
        if (p->broken || result == 0) {
            return !p->broken;
        }
    }
}

enum outcome { DONE, BROKEN, BROKEN_RUNNING, NOT_STARTED };

static enum outcome on_helper(struct itr_lookup *l, struct itr_park *p) {
    if (p->kind == ITR_PARK_CLOSED) { /* nobody may end it: no need of a helper */
        return NOT_STARTED;
    }
    if (!may_start(l)) {
        bool called_up = await(l, p);
        leave_line(l);
        if (!called_up) {
            return BROKEN;
        }
    }
    if (!itr_park_enter(p)) {
        return BROKEN;
    }
    /* Inside the park: what starting a thread calls in turn (an allocator's own mmap or open) passes through. */
    bool started = !l->orphan && start(l);
    itr_park_leave(p, false);
    if (!started) {
        return NOT_STARTED;
    }
    if (!await(l, p)) {
        return BROKEN_RUNNING;
    }
    return l->orphan ? NOT_STARTED : DONE;
}

bool itr_look_up(struct itr_lookup *l, const char *name) {
    struct itr_park p;
    bool begun = itr_park_begin(&p, ITR_PARK_DEADLINE, ITR_LOOKUP, name, -1);
    current = l;
    enum outcome outcome = begun ? on_helper(l, &p) : NOT_STARTED;
    current = NULL;
    switch (outcome) {
    case NOT_STARTED: /* step aside: the look-up is made here, and waited out */
        if (begun) {
            itr_park_close(&p);
            itr_park_enter(&p);
        }
        perform(l);
        if (begun) {
            itr_park_leave(&p, false);
        }
        atomic_store_explicit(&l->left, HELPER_LEFT, memory_order_relaxed); /* there is none */
        return true;
    case BROKEN_RUNNING:
        if (atomic_fetch_or_explicit(&l->left, ABANDONED, memory_order_acq_rel) == 0) {
            count_abandoned(1);
            break;
        }
        /* fall through */
    case BROKEN:
        destroy(l);
        break;
    case DONE:
        return true;
    }
    errno = itr_break_errno(&p);
    return false;
}

void itr_lookup_end(struct itr_lookup *l) {
    int error = l->error;
    int h_error = l->h_error;
    if (atomic_fetch_or_explicit(&l->left, CALLER_LEFT, memory_order_acq_rel) != 0) {
        destroy(l);
    }
    errno = error;
    h_errno = h_error;
}

void itr_lookups_after_fork(void) {
    /* The helpers, and all who waited in line, exist in the parent only; what they held is lost to the child. */
    pthread_mutex_init(&lock, NULL);
    abandoned = 0;
    line = NULL;
    if (current != NULL) {
        current->in_line = false;
        current->orphan = true;
        atomic_store_explicit(&current->left, 0, memory_order_relaxed);
        sem_post(&current->wake);
    }
}
