/* Waits for signals, and System V semaphores. Our own signal is taken out of the sets, or it would be handed to the
 * program. */
#include "calls/signal_park.h"

#include "calls/remaining.h"
#include "preload.h"
#include "signals.h"

/* For a wait that may be resumed: what is left of its time. */
static const struct timespec *timed(const struct timespec *timeout, struct timespec *left,
                                    const struct timespec *deadline) {
    if (timeout == NULL || timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000) {
        return timeout; /* the kernel's to refuse */
    }
    itr_remaining(left, deadline);
    return left;
}

/* sigwait gives its error as its result. */
int itr_call_sigwait(const sigset_t *set, int *sig) {
    sigset_t copy = *set;
    itr_signals_strip(&copy);
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sigwait(&copy, sig);
    }
    ITR_NOTE_CALLER();
    /* glibc's sigwait repeats on EINTR by itself, so a signal would not end it; sigwaitinfo does the same and says so.
     */
    int saved = errno;
    int result;
    siginfo_t info;
    do {
        ITR_RUN_SIGNAL_PARK(result, ITR_SIGWAIT, "sigwait", -1, itr_real.sigwaitinfo(&copy, &info), -1);
    } while (result == -1 && errno == EINTR); /* a handler of the program's */
    if (result > 0) {
        *sig = result;
        errno = saved;
        return 0;
    }
    result = errno;
    errno = saved;
    return result;
}

int itr_call_sigwaitinfo(const sigset_t *set, siginfo_t *info) {
    sigset_t copy = *set;
    itr_signals_strip(&copy);
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sigwaitinfo(&copy, info);
    }
    ITR_NOTE_CALLER();
    int result;
    ITR_RUN_SIGNAL_PARK(result, ITR_SIGWAIT, "sigwaitinfo", -1, itr_real.sigwaitinfo(&copy, info), -1);
    return result;
}

int itr_call_sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *timeout) {
    sigset_t copy = *set;
    itr_signals_strip(&copy);
    bool no_wait = timeout != NULL && timeout->tv_sec == 0 && timeout->tv_nsec == 0;
    if (ITR_LIKELY(itr_self == NULL) || no_wait) {
        return itr_real.sigtimedwait(&copy, info, timeout);
    }
    ITR_NOTE_CALLER();
    int result;
    struct timespec deadline;
    struct timespec left;
    if (timeout != NULL) {
        itr_own_deadline(&deadline, timeout);
    }
    ITR_RUN_SIGNAL_PARK(result, ITR_SIGWAIT, "sigtimedwait", -1,
                        (itr_real.sigtimedwait(&copy, info, timed(timeout, &left, &deadline))), -1);
    return result;
}

int itr_call_sigsuspend(const sigset_t *set) {
    sigset_t copy = *set;
    itr_signals_strip(&copy);
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.sigsuspend(&copy);
    }
    ITR_NOTE_CALLER();
    int result;
    ITR_RUN_SIGNAL_PARK(result, ITR_SIGWAIT, "sigsuspend", -1, itr_real.sigsuspend(&copy), -1);
    return result;
}

/* ---- semaphores ----------------------------------------------------------------------------------------------------
 */

/* What cannot wait is never broken: a thread that is to stop must be able to let go of what it holds. */
static bool never_waits(const struct sembuf *operations, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (operations[i].sem_op <= 0 && (operations[i].sem_flg & IPC_NOWAIT) == 0) {
            return false;
        }
    }
    return true;
}

int itr_call_semop(int id, struct sembuf *operations, size_t n) {
    if (ITR_LIKELY(itr_self == NULL) || never_waits(operations, n)) {
        return itr_real.semop(id, operations, n);
    }
    ITR_NOTE_CALLER();
    int result;
    ITR_RUN_SIGNAL_PARK(result, ITR_IPC, "semop", -1, itr_real.semop(id, operations, n), -1);
    return result;
}

int itr_call_semtimedop(int id, struct sembuf *operations, size_t n, const struct timespec *timeout) {
    if (ITR_LIKELY(itr_self == NULL) || never_waits(operations, n)) {
        return itr_real.semtimedop(id, operations, n, timeout);
    }
    ITR_NOTE_CALLER();
    int result;
    struct timespec deadline;
    struct timespec left;
    if (timeout != NULL) {
        itr_own_deadline(&deadline, timeout);
    }
    ITR_RUN_SIGNAL_PARK(result, ITR_IPC, "semtimedop", -1,
                        (itr_real.semtimedop(id, operations, n, timed(timeout, &left, &deadline))), -1);
    return result;
}
