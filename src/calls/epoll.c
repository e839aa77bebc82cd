/* An epoll set cannot be added to without changing the program's, so a wait for one is a signal park. */
#include "calls/signal_park.h"

#include "calls/fdset.h"
#include "calls/remaining.h"
#include "preload.h"

struct epoll_call {
    int fd;
    struct epoll_event *events;
    int max;
    int timeout;                     /* epoll_wait, epoll_pwait: milliseconds */
    const struct timespec *timespec; /* epoll_pwait2 */
    const sigset_t *mask;
    enum { EPOLL_WAIT, EPOLL_PWAIT, EPOLL_PWAIT2 } which;
};

static int real_epoll(const struct epoll_call *c, int ms, const struct timespec *left) {
    switch (c->which) {
    case EPOLL_WAIT:
        return itr_real.epoll_wait(c->fd, c->events, c->max, ms);
    case EPOLL_PWAIT:
        return itr_real.epoll_pwait(c->fd, c->events, c->max, ms, c->mask);
    default:
        return itr_real.epoll_pwait2(c->fd, c->events, c->max, left, c->mask);
    }
}

static int park_epoll(const struct epoll_call *c, const char *name) {
    struct timespec timeout = {c->timeout / 1000, (long)(c->timeout % 1000) * 1000000};
    const struct timespec *limit = c->which == EPOLL_PWAIT2 ? c->timespec : c->timeout >= 0 ? &timeout : NULL;
    int ms = c->timeout;
    struct itr_park p;
    if ((limit != NULL && limit->tv_sec == 0 && limit->tv_nsec == 0) ||
        !itr_park_begin(&p, ITR_PARK_SIGNAL, ITR_EPOLL, name, c->fd)) {
        return real_epoll(c, ms, limit);
    }
    struct timespec deadline;
    struct timespec left;
    const struct timespec *wait = limit;
    if (limit != NULL) {
        itr_own_deadline(&deadline, limit);
    }
    for (;;) {
        int result = -1;
        bool again = false;
        bool interrupted = false;
        if (itr_park_enter(&p)) {
            result = real_epoll(c, ms, wait);
            interrupted = result == -1 && errno == EINTR;
            again = itr_park_leave(&p, result == 0 || interrupted);
        }
        if (p.broken) {
            if (p.empty || (p.expires && limit != NULL)) {
                errno = p.saved_errno;
                return 0;
            }
            errno = itr_break_errno(&p);
            return -1;
        }
        if (again && interrupted && lets_in(c->mask)) {
            errno = EINTR;
            return -1;
        }
        if (!again || result == 0) { /* 0: its own time had come */
            return result;
        }
        if (limit != NULL) {
            if (!itr_remaining(&left, &deadline)) {
                return 0;
            }
            wait = &left;
            ms = in_ms(&left);
        }
    }
}

static int park_masked(struct epoll_call c, const char *name) {
    sigset_t copy;
    c.mask = without_ours(c.mask, &copy);
    return park_epoll(&c, name);
}

int itr_call_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.epoll_wait(epfd, events, max, timeout);
    }
    ITR_NOTE_CALLER();
    return park_masked((struct epoll_call){epfd, events, max, timeout, NULL, NULL, EPOLL_WAIT}, "epoll_wait");
}

int itr_call_epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.epoll_pwait(epfd, events, max, timeout, mask);
    }
    ITR_NOTE_CALLER();
    return park_masked((struct epoll_call){epfd, events, max, timeout, NULL, mask, EPOLL_PWAIT}, "epoll_pwait");
}

int itr_call_epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
                          const sigset_t *mask) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.epoll_pwait2(epfd, events, max, timeout, mask);
    }
    ITR_NOTE_CALLER();
    return park_masked((struct epoll_call){epfd, events, max, 0, timeout, mask, EPOLL_PWAIT2}, "epoll_pwait2");
}
