#include "self_pipe.h"

#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POOL 64
#define OWN_FDS 65536 /* a pipe whose number lies beyond is refused: then the park uses a signal */

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct spare {
    int fd[2];
    dev_t dev;
    ino_t ino;
} pool[POOL];
static int pooled;
static _Atomic pid_t owner;             /* whose descriptors they are: a child of vfork shares only our memory */
static _Atomic uint8_t own_fd[OWN_FDS]; /* 1: one of ours, so that close() can ask without a lock */

#if defined(__SANITIZE_THREAD__)
#define EARLY __attribute__((no_sanitize("thread"))) /* close() is called before ThreadSanitizer is ready */
#else
#define EARLY
#endif

static EARLY bool is_own(unsigned fd) {
    return fd < OWN_FDS && atomic_load_explicit(&own_fd[fd], memory_order_relaxed) != 0;
}

static void set_own(int fd, uint8_t value) {
    if (fd >= 0 && fd < OWN_FDS) {
        atomic_store_explicit(&own_fd[fd], value, memory_order_relaxed);
    }
}

/* By system call, here and below: libc's functions are cancellation points, and a thread that was cancelled in one
 * would never unlock the slot. */
static void raw_close(int fd) { syscall(SYS_close, fd); }

static void close_own(int fd) {
    set_own(fd, 0);
    raw_close(fd);
}

/* The number may have been closed behind our back (a raw syscall) and reused by the program: the inode tells. */
static bool is_pipe(int fd, dev_t dev, ino_t ino) {
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

static bool still_ours(const struct itr_slot *slot, int fd) { return is_pipe(fd, slot->pipe_dev, slot->pipe_ino); }

static void drop_spare(const struct spare *spare) {
    for (int i = 0; i < 2; i++) {
        if (is_pipe(spare->fd[i], spare->dev, spare->ino)) {
            close_own(spare->fd[i]);
        } else {
            set_own(spare->fd[i], 0);
        }
    }
}

/* Descriptors are given from the lowest number up: in the upper half of what the process may have, they get scarce, and
 * are the program's. (Its threads are then woken by signals alone.) */
static int most_fds(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur / 2 > OWN_FDS) {
        return OWN_FDS;
    }
    return (int)(limit.rlim_cur / 2);
}

/* Pool lock held. */
static bool fresh_pipe(int ends[2]) {
    while (pooled > 0) {
        const struct spare *spare = &pool[--pooled];
        if (is_pipe(spare->fd[0], spare->dev, spare->ino) && is_pipe(spare->fd[1], spare->dev, spare->ino)) {
            ends[0] = spare->fd[0];
            ends[1] = spare->fd[1];
            return true;
        }
        drop_spare(spare);
    }
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        return false;
    }
    bool usable = true;
    int most = most_fds();
    for (int i = 0; i < 2; i++) {
        if (ends[i] <= STDERR_FILENO) { /* those are the program's, even while they are closed */
            int low = ends[i];
            ends[i] = itr_real.fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
            raw_close(low);
        }
        usable = usable && ends[i] >= 0 && ends[i] < most;
    }
    for (int i = 0; i < 2 && !usable; i++) {
        if (ends[i] >= 0) {
            raw_close(ends[i]);
        }
    }
    return usable;
}

/* Slot and pool locked: a fork in between would leave the child with a pipe that nobody knows. */
static void give_pipe(struct itr_slot *slot) {
    int ends[2];
    struct stat st;
    if (!fresh_pipe(ends)) {
        return;
    }
    if (atomic_load_explicit(&owner, memory_order_relaxed) == 0) {
        atomic_store_explicit(&owner, getpid(), memory_order_relaxed);
    }
    set_own(ends[0], 1);
    set_own(ends[1], 1);
    /* A dup2 over a number that was free a moment ago: what lies there is the program's, and not to be mistaken for
     * ours. */
    if (fstat(ends[0], &st) != 0 || !S_ISFIFO(st.st_mode) || !is_pipe(ends[1], st.st_dev, st.st_ino)) {
        set_own(ends[0], 0);
        set_own(ends[1], 0);
        return;
    }
    slot->pipe_dev = st.st_dev;
    slot->pipe_ino = st.st_ino;
    slot->pipe[0] = ends[0];
    slot->pipe[1] = ends[1];
}

int itr_pipe_get(struct itr_slot *slot) {
    if (slot->pipe[0] >= 0) { /* only the target makes one; a closer takes it away under the lock, seen below */
        return slot->pipe[0];
    }
    if (slot->making_pipe) { /* a handler of the program's polls, in the middle of this */
        return -1;
    }
    int saved = errno;
    slot->making_pipe = true;
    atomic_signal_fence(memory_order_seq_cst);
    pthread_mutex_lock(&slot->lock);
    pthread_mutex_lock(&pool_lock);
    give_pipe(slot);
    int end = slot->pipe[0];
    pthread_mutex_unlock(&pool_lock);
    pthread_mutex_unlock(&slot->lock);
    atomic_signal_fence(memory_order_seq_cst);
    slot->making_pipe = false;
    errno = saved;
    return end;
}

static void gone_locked(struct itr_slot *slot) {
    for (int i = 0; i < 2; i++) {
        if (still_ours(slot, slot->pipe[i])) {
            close_own(slot->pipe[i]);
        } else {
            set_own(slot->pipe[i], 0);
        }
        slot->pipe[i] = -1;
    }
}

bool itr_pipe_write(struct itr_slot *slot) {
    if (slot->pipe[1] < 0) {
        return false;
    }
    if (!still_ours(slot, slot->pipe[1]) || !still_ours(slot, slot->pipe[0])) {
        gone_locked(slot);
        return false;
    }
    char byte = 0;
    /* EAGAIN: full, so it is readable, which is all that is wanted. */
    return syscall(SYS_write, slot->pipe[1], &byte, 1) == 1 || errno == EAGAIN;
}

void itr_pipe_drain(struct itr_slot *slot) {
    int saved = errno;
    char bytes[64];
    pthread_mutex_lock(&slot->lock);
    if (slot->pipe[0] >= 0) {
        long n = 0;
        while (still_ours(slot, slot->pipe[0]) && (n = syscall(SYS_read, slot->pipe[0], bytes, sizeof bytes)) > 0) {
        }
        if (n == 0) { /* one end was closed behind our back: without a writer it would look readable for ever */
            gone_locked(slot);
        }
    }
    pthread_mutex_unlock(&slot->lock);
    errno = saved;
}

bool itr_pipe_lost(struct itr_slot *slot) {
    pthread_mutex_lock(&slot->lock);
    bool lost = slot->pipe[0] < 0 || !still_ours(slot, slot->pipe[0]);
    if (lost && slot->pipe[0] >= 0) {
        gone_locked(slot);
    }
    pthread_mutex_unlock(&slot->lock);
    return lost;
}

void itr_pipe_release(struct itr_slot *slot) {
    if (slot->pipe[0] < 0) {
        return;
    }
    int saved = errno;
    itr_pipe_drain(slot);
    pthread_mutex_lock(&slot->lock);
    bool whole = still_ours(slot, slot->pipe[0]) && still_ours(slot, slot->pipe[1]);
    bool kept = false;
    if (whole) {
        pthread_mutex_lock(&pool_lock);
        if (pooled < POOL) {
            pool[pooled++] = (struct spare){{slot->pipe[0], slot->pipe[1]}, slot->pipe_dev, slot->pipe_ino};
            kept = true;
        }
        pthread_mutex_unlock(&pool_lock);
    }
    if (kept) {
        slot->pipe[0] = slot->pipe[1] = -1;
    } else {
        gone_locked(slot);
    }
    pthread_mutex_unlock(&slot->lock);
    errno = saved;
}

void itr_pipe_forget(struct itr_slot *slot) { gone_locked(slot); }

void itr_pipe_before_fork(void) { pthread_mutex_lock(&pool_lock); }

void itr_pipe_after_fork(bool child) {
    if (!child) {
        pthread_mutex_unlock(&pool_lock);
        return;
    }
    atomic_store_explicit(&owner, getpid(), memory_order_relaxed);
    pthread_mutex_init(&pool_lock, NULL);
    while (pooled > 0) {
        drop_spare(&pool[--pooled]);
    }
}

struct range {
    unsigned first, last;
    struct itr_pipe_end *left; /* the program closes the one number itself; NULL: we do */
};

static bool in_range(int fd, const struct range *r) {
    return fd >= 0 && (unsigned)fd >= r->first && (unsigned)fd <= r->last;
}

/* `fd` is of a pipe that nobody uses any more. */
static void let_go(int fd, dev_t dev, ino_t ino, const struct range *r) {
    if (!is_pipe(fd, dev, ino)) {
        set_own(fd, 0);
    } else if (r->left != NULL && in_range(fd, r)) {
        set_own(fd, 0);
        *r->left = (struct itr_pipe_end){fd, dev, ino};
    } else {
        close_own(fd);
    }
}

static void forget_in_range(struct itr_slot *slot, void *arg) {
    const struct range *r = arg;
    pthread_mutex_lock(&slot->lock);
    if (in_range(slot->pipe[0], r) || in_range(slot->pipe[1], r)) {
        for (int i = 0; i < 2; i++) {
            let_go(slot->pipe[i], slot->pipe_dev, slot->pipe_ino, r);
            slot->pipe[i] = -1;
        }
    }
    pthread_mutex_unlock(&slot->lock);
}

static void forget_fds(struct range r) {
    int saved = errno;
    if (r.last >= r.first && atomic_load_explicit(&owner, memory_order_relaxed) == getpid()) {
        itr_each_slot(forget_in_range, &r);
        pthread_mutex_lock(&pool_lock);
        for (int i = 0; i < pooled;) {
            if (!in_range(pool[i].fd[0], &r) && !in_range(pool[i].fd[1], &r)) {
                i++;
                continue;
            }
            for (int j = 0; j < 2; j++) {
                let_go(pool[i].fd[j], pool[i].dev, pool[i].ino, &r);
            }
            pool[i] = pool[--pooled];
        }
        pthread_mutex_unlock(&pool_lock);
    }
    errno = saved;
}

EARLY void itr_pipe_fd_going(int fd, struct itr_pipe_end *left) {
    left->fd = -1;
    if (is_own((unsigned)fd)) { /* the hot case is close() of a descriptor that is not ours */
        forget_fds((struct range){(unsigned)fd, (unsigned)fd, left});
    }
}

void itr_pipe_fd_stays(const struct itr_pipe_end *left) {
    int saved = errno;
    if (is_pipe(left->fd, left->dev, left->ino)) {
        raw_close(left->fd);
    }
    errno = saved;
}

void itr_pipe_fds_going(unsigned first, unsigned last) { forget_fds((struct range){first, last, NULL}); }
