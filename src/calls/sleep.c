/* Sleeps, and the clock that Thread.join looks at. The deadline of a sleep lies in the slot while the kernel looks at
 * it, so that a waker can move it into the past (DESIGN section 3, "deadline"). */
#include "calls/signal_park.h"

#include "preload.h"

static bool before(struct timespec a, struct timespec b) {
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

static struct timespec minus(struct timespec a, struct timespec b) {
    struct timespec d = {a.tv_sec - b.tv_sec, a.tv_nsec - b.tv_nsec};
    if (d.tv_nsec < 0) {
        d.tv_sec--;
        d.tv_nsec += 1000000000;
    }
    if (d.tv_sec < 0) {
        d.tv_sec = d.tv_nsec = 0;
    }
    return d;
}

static bool valid(const struct timespec *t) {
    return t != NULL && t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < 1000000000;
}

/* Returns 0 or an error number, as clock_nanosleep does. */
static int park_sleep(const char *name, clockid_t clock, int flags, const struct timespec *req, struct timespec *rem) {
    struct itr_park p;
    if (!valid(req) || !itr_park_begin(&p, ITR_PARK_DEADLINE, ITR_SLEEP, name, -1)) {
        return itr_real.clock_nanosleep(clock, flags, req, rem);
    }
    struct timespec start;
    struct timespec now;
    struct timespec left = *req;
    bool absolute = (flags & TIMER_ABSTIME) != 0;
    itr_real.clock_gettime(clock, &start);
    for (;;) {
        int error = EINTR;
        bool again = false;
        if (itr_park_enter_until(&p, left)) {
            /* The kernel gets no `rem`: after a wake-up it would be computed from the deadline that was pulled. */
            error = itr_real.clock_nanosleep(clock, flags, &p.slot->deadline, NULL);
            again = itr_park_leave(&p, error == EINTR || error == 0);
        }
        if (error == 0 && !again && !p.broken) {
            return 0;
        }
        if (error != 0 && error != EINTR) {
            return error;
        }
        itr_real.clock_gettime(clock, &now);
        struct timespec rest = absolute ? minus(*req, now) : minus(*req, minus(now, start));
        if (again && (rest.tv_sec > 0 || rest.tv_nsec > 0)) {
            left = absolute ? *req : rest;
            continue;
        }
        if (again) {
            return 0; /* its own time had come */
        }
        if (rem != NULL && !absolute) {
            *rem = rest;
        }
        if (p.broken && p.sleeps) {
            return 0;
        }
        return p.broken ? itr_break_errno(&p) : EINTR;
    }
}

int itr_call_clock_nanosleep(clockid_t clock, int flags, const struct timespec *req, struct timespec *rem) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.clock_nanosleep(clock, flags, req, rem);
    }
    ITR_NOTE_CALLER();
    int saved = errno; /* clock_nanosleep reports by its result and leaves errno alone */
    int error = park_sleep("clock_nanosleep", clock, flags, req, rem);
    errno = saved;
    return error;
}

int itr_call_nanosleep(const struct timespec *req, struct timespec *rem) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.nanosleep(req, rem);
    }
    ITR_NOTE_CALLER();
    int saved = errno;
    int error = park_sleep("nanosleep", CLOCK_MONOTONIC, 0, req, rem);
    errno = error == 0 ? saved : error;
    return error == 0 ? 0 : -1;
}

int itr_call_usleep(useconds_t usec) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.usleep(usec);
    }
    ITR_NOTE_CALLER();
    struct timespec req = {(time_t)(usec / 1000000), (long)(usec % 1000000) * 1000};
    int saved = errno;
    int error = park_sleep("usleep", CLOCK_MONOTONIC, 0, &req, NULL);
    errno = error == 0 ? saved : error;
    return error == 0 ? 0 : -1;
}

unsigned itr_call_sleep(unsigned seconds) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sleep(seconds);
    }
    ITR_NOTE_CALLER();
    struct timespec req = {(time_t)seconds, 0};
    struct timespec rem = {0, 0};
    int saved = errno;
    int error = park_sleep("sleep", CLOCK_MONOTONIC, 0, &req, &rem);
    errno = saved;
    return error == 0 ? 0 : (unsigned)rem.tv_sec + (rem.tv_nsec > 0 ? 1u : 0u);
}

int itr_call_clock_gettime(clockid_t clock, struct timespec *now) {
    struct itr_slot *slot = itr_self;
    int result = itr_real.clock_gettime(clock, now);
    if (ITR_LIKELY(slot == NULL || !slot->fake_clock)) {
        return result;
    }
    /* Thread.join (3.13+) ignores the early ETIMEDOUT and waits on to its own deadline. One look at a far future makes
     * it give up; the wrapper throws the result away. Measured on 3.13.0 and 3.13.5t. */
    slot->fake_clock = false;
    if (result == 0) {
        now->tv_sec += (time_t)1 << 33;
    }
    return result;
}

/* ---- timed semaphore waits
 * ----------------------------------------------------------------------------------------------- */

int itr_call_sem_wait(sem_t *sem) {
    /* Untimed: whoever waits here (import lock, BufferedReader, PyMutex) does not look at the result, so it is never
     * failed. It is announced so that itr_where() can name it. */
    struct itr_slot *slot = itr_self;
    if (ITR_LIKELY(slot == NULL)) {
        return itr_real.sem_wait(sem);
    }
    int result;
    struct itr_park p;
    if (!itr_park_begin(&p, ITR_PARK_CLOSED, 0, "sem_wait", -1)) {
        return itr_real.sem_wait(sem);
    }
    itr_park_enter(&p);
    result = itr_real.sem_wait(sem);
    itr_park_leave(&p, false);
    return result;
}

/* The wrapper's deadline on the clock of this wait, if it comes first; else the caller's. */
static struct timespec earlier(struct itr_slot *slot, clockid_t clock, const struct timespec *deadline) {
    struct timespec until = {(time_t)(slot->until_ns / 1000000000), (long)(slot->until_ns % 1000000000)};
    slot->until_kept = true;
    if (clock != CLOCK_MONOTONIC) {
        struct timespec now;
        itr_real.clock_gettime(CLOCK_MONOTONIC, &now);
        struct timespec left = minus(until, now);
        itr_real.clock_gettime(clock, &until);
        until.tv_sec += left.tv_sec;
        until.tv_nsec += left.tv_nsec;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    return before(until, *deadline) ? until : *deadline;
}

static int timed_sem(const char *name, sem_t *sem, clockid_t clock, const struct timespec *deadline, bool clockwait) {
    struct itr_park p;
    if (!valid(deadline) || !itr_park_begin(&p, ITR_PARK_DEADLINE, ITR_SEM, name, -1)) {
        return clockwait ? itr_real.sem_clockwait(sem, clock, deadline) : itr_real.sem_timedwait(sem, deadline);
    }
    struct timespec end = p.exact && p.slot->until_ns != 0 ? earlier(p.slot, clock, deadline) : *deadline;
    for (;;) {
        int result = -1;
        bool again = false;
        if (itr_park_enter_until(&p, end)) {
            result = clockwait ? itr_real.sem_clockwait(sem, clock, &p.slot->deadline)
                               : itr_real.sem_timedwait(sem, &p.slot->deadline);
            again = itr_park_leave(&p, result != 0 && (errno == ETIMEDOUT || errno == EINTR));
        }
        if (p.broken) {
            p.slot->fake_clock = p.slot->join_row;
            errno = p.exact ? ETIMEDOUT : itr_break_errno(&p);
            return -1;
        }
        if (!again) {
            return result;
        }
        struct timespec now;
        itr_real.clock_gettime(clock, &now);
        if (!before(now, end)) {
            errno = ETIMEDOUT;
            return -1;
        }
    }
}

int itr_call_sem_timedwait(sem_t *sem, const struct timespec *deadline) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sem_timedwait(sem, deadline);
    }
    ITR_NOTE_CALLER();
    return timed_sem("sem_timedwait", sem, CLOCK_REALTIME, deadline, false);
}

int itr_call_sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *deadline) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sem_clockwait(sem, clock, deadline);
    }
    ITR_NOTE_CALLER();
    return timed_sem("sem_clockwait", sem, clock, deadline, true);
}
