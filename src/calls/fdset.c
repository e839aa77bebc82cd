/* Waits on sets of descriptors. In an exact call the self-pipe is watched too: a written pipe stays readable, so no
 * wake-up is lost, and the broken call returns 0 with its sets cleared, as if it had timed out, which leaves sockets
 * and TLS sessions intact.
 */
#include "calls/signal_park.h"

#include "calls/fdset.h"
#include "calls/remaining.h"
#include "preload.h"
#include "self_pipe.h"

#include <string.h>

#define MOST_BITS 65536 /* of a set, likewise */
#define STACK_FDS 127   /* more than that: a signal park, so that nothing is allocated */

/* ---- poll
 * ------------------------------------------------------------------------------------------------------------------ */

struct poll_call {
    struct pollfd *fds;
    nfds_t n;
    int timeout;                     /* poll: milliseconds */
    const struct timespec *timespec; /* ppoll */
    const sigset_t *mask;
    bool is_ppoll;
};

static int real_poll(const struct poll_call *c, struct pollfd *fds, nfds_t n, const struct timespec *left) {
    if (c->is_ppoll) {
        return itr_real.ppoll(fds, n, left, c->mask);
    }
    int ms = c->timeout;
    if (left != NULL) {
        ms = in_ms(left);
    }
    return itr_real.poll(fds, n, ms);
}

static void clear_poll(const struct poll_call *c) {
    for (nfds_t i = 0; i < c->n; i++) {
        c->fds[i].revents = 0;
    }
}

static int park_poll(struct poll_call *c, const char *name) {
    struct timespec timeout = {c->timeout / 1000, (long)(c->timeout % 1000) * 1000000};
    const struct timespec *limit = c->is_ppoll ? c->timespec : c->timeout >= 0 ? &timeout : NULL;
    struct itr_park p;
    if ((limit != NULL && limit->tv_sec == 0 && limit->tv_nsec == 0) || (c->n > 0 && is_nowhere(c->fds)) ||
        !itr_park_begin(&p, c->n > 0 && c->n <= STACK_FDS ? ITR_PARK_FDSET : ITR_PARK_SIGNAL, ITR_POLL, name,
                        c->n == 1 ? c->fds[0].fd : -1)) {
        return real_poll(c, c->fds, c->n, c->is_ppoll ? limit : NULL);
    }
    struct pollfd set[STACK_FDS + 1];
    struct timespec deadline;
    struct timespec left;
    const struct timespec *wait = limit;
    if (limit != NULL) {
        itr_own_deadline(&deadline, limit);
    }
    for (;;) {
        int own = p.kind == ITR_PARK_FDSET ? itr_pipe_get(p.slot) : -1;
        if (p.kind == ITR_PARK_FDSET && own < 0) {
            itr_park_downgrade(&p);
        }
        int result = -1;
        bool again = false;
        bool only_ours = false;
        bool retry = false;
        bool interrupted = false;
        if (itr_park_enter(&p)) {
            if (own >= 0) {
                memcpy(set, c->fds, sizeof(struct pollfd) * c->n);
                set[c->n] = (struct pollfd){.fd = own, .events = POLLIN};
                result = real_poll(c, set, c->n + 1, wait);
                if (result == -1 && errno == EINVAL) { /* one more than RLIMIT_NOFILE allows, perhaps */
                    retry = true;
                } else if (result >= 0) {
                    result -= set[c->n].revents != 0;
                    only_ours = result == 0 && set[c->n].revents != 0;
                    for (nfds_t i = 0; i < c->n; i++) {
                        c->fds[i].revents = set[i].revents;
                    }
                }
            } else {
                result = real_poll(c, c->fds, c->n, wait);
            }
            interrupted = result == -1 && errno == EINTR;
            again = itr_park_leave(&p, result == 0 || interrupted || retry);
        }
        if (retry && !p.broken) {
            itr_park_downgrade(&p);
            continue;
        }
        if (p.broken) {
            if ((p.empty && c->n > 0) || (p.expires && limit != NULL)) {
                errno = p.saved_errno;
                clear_poll(c);
                return 0;
            }
            for (nfds_t i = 0; p.shuts && i < c->n; i++) {
                shutdown(c->fds[i].fd, SHUT_RDWR); /* what is no socket does not mind */
            }
            errno = itr_break_errno(&p);
            return -1;
        }
        if (again && interrupted && lets_in(c->mask)) {
            errno = EINTR;
            return -1;
        }
        if (!again && !only_ours) {
            return result;
        }
        if (only_ours && !p.woken) {
            itr_pipe_drain(p.slot); /* nobody woke us: the number is the program's now, or a stale byte */
        }
        if (limit != NULL) {
            if (!itr_remaining(&left, &deadline)) { /* its own time has come */
                clear_poll(c);
                return 0;
            }
            wait = &left;
        }
    }
}

int itr_call_poll(struct pollfd *fds, nfds_t n, int timeout) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.poll(fds, n, timeout);
    }
    ITR_NOTE_CALLER();
    struct poll_call c = {.fds = fds, .n = n, .timeout = timeout};
    return park_poll(&c, "poll");
}

int itr_call_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.ppoll(fds, n, timeout, mask);
    }
    ITR_NOTE_CALLER();
    sigset_t copy;
    struct poll_call c = {.fds = fds, .n = n, .timespec = timeout, .mask = without_ours(mask, &copy), .is_ppoll = true};
    return park_poll(&c, "ppoll");
}

/* The fortified ones check `size` first and abort when it is too small: theirs to do. */
int itr_call___poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size) {
    if (ITR_LIKELY(itr_self == NULL) || size / sizeof *fds < n) {
        return itr_real.__poll_chk(fds, n, timeout, size);
    }
    ITR_NOTE_CALLER();
    return itr_call_poll(fds, n, timeout);
}

int itr_call___ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                         size_t size) {
    if (ITR_LIKELY(itr_self == NULL) || size / sizeof *fds < n) {
        return itr_real.__ppoll_chk(fds, n, timeout, mask, size);
    }
    ITR_NOTE_CALLER();
    return itr_call_ppoll(fds, n, timeout, mask);
}

/* ---- select
 * ---------------------------------------------------------------------------------------------------------------- */

struct select_call {
    int n;
    fd_set *sets[3];
    struct timeval *timeval;         /* select: what is left is written back */
    const struct timespec *timespec; /* pselect */
    const sigset_t *mask;
    bool is_pselect;
};

static int real_select(const struct select_call *c, int n, fd_set *r, const struct timespec *left) {
    return c->is_pselect ? itr_real.pselect(n, r, c->sets[1], c->sets[2], left, c->mask)
                         : itr_real.select(n, r, c->sets[1], c->sets[2], c->timeval);
}

static size_t set_bytes(int n) { return ((size_t)n + 8 * sizeof(long) - 1) / (8 * sizeof(long)) * sizeof(long); }

/* The kernel does not look at what lies beyond the program's number, but would look as far as ours. */
static void clear_beyond(fd_set *set, int n) {
    for (int fd = n; fd < FD_SETSIZE && fd % (8 * (int)sizeof(long)) != 0; fd++) {
        FD_CLR(fd, set);
    }
}

static void clear_select(const struct select_call *c) {
    for (int i = 0; i < 3; i++) {
        if (c->sets[i] != NULL) {
            memset(c->sets[i], 0, set_bytes(c->n));
        }
    }
}

static int park_select(struct select_call *c, const char *name) {
    bool no_wait = c->is_pselect ? c->timespec != NULL && c->timespec->tv_sec == 0 && c->timespec->tv_nsec == 0
                                 : c->timeval != NULL && c->timeval->tv_sec == 0 && c->timeval->tv_usec == 0;
    bool small = c->n > 0 && c->n <= FD_SETSIZE;
    struct itr_park p;
    /* 3.9's and 3.10's time.sleep is a select of nothing. */
    uint32_t class_ = c->n == 0 ? (uint32_t)ITR_SELECT | ITR_SLEEP : ITR_SELECT;
    bool bad = false;
    for (int i = 0; i < 3; i++) {
        bad = bad || (c->n > 0 && c->sets[i] != NULL && is_nowhere(c->sets[i]));
    }
    if (no_wait || bad || c->n < 0 || c->n > MOST_BITS ||
        !itr_park_begin(&p, small ? ITR_PARK_FDSET : ITR_PARK_SIGNAL, class_, name, -1)) {
        return real_select(c, c->n, c->sets[0], c->timespec);
    }
    size_t bytes = set_bytes(c->n);
    unsigned char before[3][bytes + 1]; /* of what there is: larger sets than libc's are the program's own */
    fd_set readable;
    struct timespec deadline;
    struct timespec left;
    struct timespec timeout;
    const struct timespec *limit = c->timespec;
    if (!c->is_pselect && c->timeval != NULL) {
        timeout = (struct timespec){c->timeval->tv_sec, c->timeval->tv_usec * 1000};
        limit = &timeout;
    }
    const struct timespec *wait = limit;
    for (int i = 0; i < 3; i++) {
        if (c->sets[i] != NULL) {
            memcpy(before[i], c->sets[i], bytes);
        }
    }
    if (limit != NULL) {
        itr_own_deadline(&deadline, limit);
    }
    for (;;) {
        int own = p.kind == ITR_PARK_FDSET ? itr_pipe_get(p.slot) : -1;
        if (own >= FD_SETSIZE) {
            own = -1; /* the set is too small for the number */
        }
        if (p.kind == ITR_PARK_FDSET && own < 0) {
            itr_park_downgrade(&p);
        }
        int result = -1;
        bool again = false;
        bool only_ours = false;
        bool lost = false;
        bool interrupted = false;
        if (itr_park_enter(&p)) {
            if (own >= 0) {
                /* Our number may lie beyond the program's sets, which then are too short for the kernel to read that
                 * far: full-size copies. */
                fd_set full[3];
                fd_set *pass[3] = {&full[0], NULL, NULL};
                for (int i = 0; i < 3; i++) {
                    FD_ZERO(&full[i]);
                    if (c->sets[i] != NULL) {
                        memcpy(&full[i], c->sets[i], bytes);
                        clear_beyond(&full[i], c->n);
                        pass[i] = &full[i];
                    }
                }
                readable = full[0];
                FD_SET(own, &full[0]);
                int n = own + 1 > c->n ? own + 1 : c->n;
                result = c->is_pselect ? itr_real.pselect(n, pass[0], pass[1], pass[2], wait, c->mask)
                                       : itr_real.select(n, pass[0], pass[1], pass[2], c->timeval);
                if (result >= 0) {
                    bool ours = FD_ISSET(own, &full[0]) && !(own < c->n && FD_ISSET(own, &readable));
                    if (ours) {
                        FD_CLR(own, &full[0]);
                        result--;
                    }
                    only_ours = ours && result == 0;
                    for (int i = 0; i < 3; i++) {
                        if (c->sets[i] != NULL && !only_ours) {
                            memcpy(c->sets[i], &full[i], bytes);
                        }
                    }
                } else if (errno == EBADF && itr_pipe_lost(p.slot)) {
                    lost = true; /* closed by a raw syscall: not the program's error */
                }
            } else {
                result = real_select(c, c->n, c->sets[0], wait);
            }
            interrupted = result == -1 && errno == EINTR && !lost;
            again = itr_park_leave(&p, result == 0 || lost || interrupted) || (lost && !p.broken);
        }
        if (p.broken) {
            if ((p.empty && c->n > 0) || (p.expires && limit != NULL)) {
                errno = p.saved_errno;
                clear_select(c);
                return 0;
            }
            errno = itr_break_errno(&p);
            return -1;
        }
        if (again && interrupted && lets_in(c->mask)) {
            errno = EINTR;
            return -1;
        }
        if (!again && !only_ours) {
            return result;
        }
        if (only_ours && !p.woken) {
            itr_pipe_drain(p.slot);
        }
        for (int i = 0; i < 3; i++) {
            if (c->sets[i] != NULL) {
                memcpy(c->sets[i], before[i], bytes);
            }
        }
        if (limit != NULL) {
            bool over = !itr_remaining(&left, &deadline);
            wait = &left;
            if (c->timeval != NULL) {
                *c->timeval = (struct timeval){left.tv_sec, (left.tv_nsec + 999) / 1000};
            }
            if (over) {
                clear_select(c);
                return 0;
            }
        }
    }
}

int itr_call_select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.select(n, r, w, e, timeout);
    }
    ITR_NOTE_CALLER();
    struct select_call c = {.n = n, .sets = {r, w, e}, .timeval = timeout};
    return park_select(&c, "select");
}

int itr_call_pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *timeout, const sigset_t *mask) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.pselect(n, r, w, e, timeout, mask);
    }
    ITR_NOTE_CALLER();
    sigset_t copy;
    struct select_call c = {
        .n = n, .sets = {r, w, e}, .timespec = timeout, .mask = without_ours(mask, &copy), .is_pselect = true};
    return park_select(&c, "pselect");
}
