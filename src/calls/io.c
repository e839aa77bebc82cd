/* connect, open, fcntl locks, and the close family. */
#include "calls/signal_park.h"

#include "preload.h"
#include "self_pipe.h"

#include <stdarg.h>

/* An Internet connect is never issued twice: interrupted, it goes on in the background, and a second one would fail
 * with EALREADY or report the outcome of the first as an error. A resumed one waits for the socket and reads its error.
 * Of other families nothing is left when it is interrupted, so there it is issued again. */
static bool goes_on(const struct sockaddr *addr, socklen_t len) {
    return len >= sizeof addr->sa_family && (addr->sa_family == AF_INET || addr->sa_family == AF_INET6);
}

static int finish_connect(int fd) {
    int saved = errno;
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    if (itr_real.poll(&one, 1, -1) < 0) {
        return -1;
    }
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        return -1;
    }
    errno = error == 0 ? saved : error;
    return error == 0 ? 0 : -1;
}

int itr_call_connect(int fd, const struct sockaddr *addr, socklen_t len) {
    if (ITR_LIKELY(itr_self == NULL)) {
        return itr_real.connect(fd, addr, len);
    }
    ITR_NOTE_CALLER();
    int result;
    bool issued = false;
    ITR_RUN_SIGNAL_PARK(result, ITR_CONNECT, "connect", fd,
                        (issued ? finish_connect(fd) : (issued = goes_on(addr, len), itr_real.connect(fd, addr, len))),
                        -1);
    return result;
}

/* ---- open
 * --------------------------------------------------------------------------------------------------------------------
 */

#ifndef __O_TMPFILE
#define __O_TMPFILE 020000000
#endif

static bool takes_mode(int flags) { return (flags & (O_CREAT | __O_TMPFILE)) != 0; }

#define OPEN_BODY(name, label, CALL)                                                                                   \
    mode_t mode = 0;                                                                                                   \
    if (takes_mode(flags)) {                                                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }                                                                                                                  \
    if (ITR_LIKELY(itr_self == NULL)) {                                                                                \
        return CALL;                                                                                                   \
    }                                                                                                                  \
    ITR_NOTE_CALLER();                                                                                                 \
    int result;                                                                                                        \
    ITR_RUN_SIGNAL_PARK(result, ITR_OPEN, label, -1, CALL, -1);                                                        \
    return result;

int itr_call_open(const char *path, int flags, ...) { OPEN_BODY(open, "open", itr_real.open(path, flags, mode)) }
int itr_call_open64(const char *path, int flags, ...) {
    OPEN_BODY(open64, "open64", itr_real.open64(path, flags, mode))
}
int itr_call_openat(int dir, const char *path, int flags, ...) {
    OPEN_BODY(openat, "openat", itr_real.openat(dir, path, flags, mode))
}
int itr_call_openat64(int dir, const char *path, int flags, ...) {
    OPEN_BODY(openat64, "openat64", itr_real.openat64(dir, path, flags, mode))
}

/* ---- fcntl: only the locks wait
 * ---------------------------------------------------------------------------------------------- */

/* To unlock never waits, and is never broken: a thread that is to stop must be able to let go of what it holds. */
static bool waits(int command, const void *arg) {
    return (command == F_SETLKW || command == F_OFD_SETLKW) && arg != NULL &&
           ((const struct flock *)arg)->l_type != F_UNLCK;
}

#define FCNTL_BODY(name)                                                                                               \
    va_list rest;                                                                                                      \
    va_start(rest, command);                                                                                           \
    void *arg = va_arg(rest, void *);                                                                                  \
    va_end(rest);                                                                                                      \
    if (ITR_LIKELY(itr_self == NULL || !waits(command, arg))) {                                                        \
        return itr_real.name(fd, command, arg);                                                                        \
    }                                                                                                                  \
    ITR_NOTE_CALLER();                                                                                                 \
    int result;                                                                                                        \
    ITR_RUN_SIGNAL_PARK(result, ITR_FLOCK, #name, fd, itr_real.name(fd, command, arg), -1);                            \
    return result;

int itr_call_fcntl(int fd, int command, ...) { FCNTL_BODY(fcntl) }
int itr_call_fcntl64(int fd, int command, ...) { FCNTL_BODY(fcntl64) }

/* ---- the program closes descriptors, perhaps ours
 * ---------------------------------------------------------------------------- */

int itr_call_close(int fd) {
    struct itr_pipe_end ours;
    itr_pipe_fd_going(fd, &ours);
    return itr_real.close(fd);
}

/* Nothing is closed when it fails, and nobody would know any more that the number is ours. */
static int replaced(int result, const struct itr_pipe_end *ours) {
    if (result == -1 && ours->fd >= 0) {
        itr_pipe_fd_stays(ours);
    }
    return result;
}

int itr_call_dup2(int from, int to) {
    struct itr_pipe_end ours = {.fd = -1};
    if (from != to) {
        itr_pipe_fd_going(to, &ours);
    }
    return replaced(itr_real.dup2(from, to), &ours);
}

int itr_call_dup3(int from, int to, int flags) {
    struct itr_pipe_end ours = {.fd = -1};
    if (from != to) {
        itr_pipe_fd_going(to, &ours);
    }
    return replaced(itr_real.dup3(from, to, flags), &ours);
}

int itr_call_close_range(unsigned first, unsigned last, int flags) {
    /* With CLOSE_RANGE_CLOEXEC (4) nothing is closed; with CLOSE_RANGE_UNSHARE (2) the table is this thread's alone. */
    if ((flags & 4) == 0) {
        itr_pipe_fds_going(first, last);
    }
    return itr_real.close_range(first, last, flags);
}

void itr_call_closefrom(int first) {
    itr_pipe_fds_going(first < 0 ? 0u : (unsigned)first, UINT32_MAX);
    itr_real.closefrom(first);
}
