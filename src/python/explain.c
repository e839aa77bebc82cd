/* In words: where the target of an interrupt is. For people who wonder why a thread does not stop. */
#include "core.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
    struct sockaddr_storage space;
};

static void say_address(const union address *a, socklen_t length, char *out, size_t size) {
    char host[INET6_ADDRSTRLEN] = "?";
    switch (a->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
        snprintf(out, size, "%s:%d", host, ntohs(a->v4.sin_port));
        return;
    case AF_INET6:
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
        snprintf(out, size, "[%s]:%d", host, ntohs(a->v6.sin6_port));
        return;
    case AF_UNIX: {
        int most = (int)length - (int)offsetof(struct sockaddr_un, sun_path);
        bool abstract = most > 0 && a->local.sun_path[0] == '\0';
        if (most > 0) {
            snprintf(out, size, "%s%.*s", abstract ? "@" : "", most - (abstract ? 1 : 0),
                     a->local.sun_path + (abstract ? 1 : 0));
        } else {
            snprintf(out, size, "an unnamed local socket");
        }
        return;
    }
    default:
        snprintf(out, size, "address family %d", a->any.sa_family);
    }
}

/* " (connected to 192.0.2.1:5432)", or nothing. The thread may be done with the descriptor by now, and another file may
 * have its number: then this says so of that one, and harms nothing. */
static void say_peer(int fd, char *out, size_t size) {
    union address peer;
    socklen_t length = sizeof peer;
    char text[160] = "";
    out[0] = '\0';
    if (fd < 0) {
        return;
    }
    if (getpeername(fd, &peer.any, &length) == 0) {
        say_address(&peer, length, text, sizeof text);
        snprintf(out, size, " connected to %s", text);
        return;
    }
    length = sizeof peer;
    if (getsockname(fd, &peer.any, &length) == 0) {
        say_address(&peer, length, text, sizeof text);
        snprintf(out, size, " bound to %s", text);
        return;
    }
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, text, sizeof text - 1);
    if (n > 0) {
        text[n] = '\0';
        snprintf(out, size, " of %s", text);
    }
}

PyObject *itr_handle_explain(PyObject *self, PyObject *unused) {
    (void)unused;
    itr_record *record = ((itr_handle *)self)->record;
    struct itr_thread *t = itr_record_owner(record);
    if (record->state != ITR_STATE_PENDING) {
        PyObject *state = itr_handle_state(self, NULL);
        PyObject *text = state == NULL ? NULL : PyUnicode_FromFormat("interrupt %llu was %U", record->id, state);
        Py_XDECREF(state);
        return text;
    }
    if (t == NULL) {
        return PyUnicode_FromFormat("interrupt %llu waits for its thread to start", record->id);
    }
    struct itr_slot *slot = t->slot;
    const char *mask = t->user_masks[ITR_MASK_ALL] != 0        ? ", masked by critical_section()"
                       : t->user_masks[ITR_MASK_BLOCKING] != 0 ? ", masked by deliver_on_blocking()"
                                                               : "";
    if (atomic_load_explicit(&slot->park, memory_order_acquire) == 0) {
        uint32_t nudges = atomic_load_explicit(&slot->nudges, memory_order_relaxed);
        bool exact = atomic_load_explicit(&slot->exact, memory_order_relaxed) != 0;
        if (exact && itr_api->active() == 0) {
            return PyUnicode_FromFormat("interrupt %llu is pending: thread %lu is in a blocking call of CPython's, and "
                                        "the calls of libc are not bound (uninstall_patches())%s",
                                        record->id, t->ident, mask);
        }
        if (exact && nudges > 1) { /* the first brings it into the open, if anything does */
            return PyUnicode_FromFormat("interrupt %llu is pending: thread %lu waits in a call that does not come "
                                        "through this library, and was woken %lu times in vain%s",
                                        record->id, t->ident, (unsigned long)nudges, mask);
        }
        return PyUnicode_FromFormat("interrupt %llu is pending: thread %lu runs Python or C code that does not wait%s",
                                    record->id, t->ident, mask);
    }
    const char *call = atomic_load_explicit(&slot->call, memory_order_relaxed);
    int fd = atomic_load_explicit(&slot->fd, memory_order_relaxed);
    char on[32] = "";
    char peer[192];
    if (fd >= 0) {
        snprintf(on, sizeof on, "fd %d", fd);
    }
    say_peer(fd, peer, sizeof peer);
    char how[128] = "called by CPython";
    if (atomic_load_explicit(&slot->exact, memory_order_relaxed) == 0) {
        char library[64];
        itr_api->foreign_name(slot, library, sizeof library);
        snprintf(how, sizeof how, "called by %s, which was told and goes on",
                 library[0] == '\0' ? "the program" : library);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long ms = (long)(((int64_t)now.tv_sec * 1000000000 + now.tv_nsec -
                      atomic_load_explicit(&slot->since_ns, memory_order_relaxed)) /
                     1000000);
    /* Not %s for the peer: a path need not be UTF-8. */
    PyObject *where = PyUnicode_DecodeFSDefault(peer);
    PyObject *text =
        where == NULL
            ? NULL
            : PyUnicode_FromFormat("interrupt %llu is pending: thread %lu is parked in %s(%s)%U, %s, for %ld ms%s",
                                   record->id, t->ident, call, on, where, how, ms, mask);
    Py_XDECREF(where);
    return text;
}
