/* Breaking a TLS call on a blocking socket.
 *
 * OpenSSL waits in read() or write(). Any errno but EAGAIN or EINTR kills the session, so the broken one says EAGAIN;
 * then _ssl looks at the socket's time-out: with none it calls OpenSSL again, for ever; with one it raises TimeoutError
 * and leaves the session usable (PySSL_select in Modules/_ssl.c, 3.9-3.15: SOCKET_HAS_TIMED_OUT when the call began
 * without a time-out and the socket has one now). So at the moment of the break, and only then, the socket object is
 * given one; the wrapper takes it away again before Python runs. The field is a _PyTime_t (int64, nanoseconds); its
 * place is found by looking for a value that was just set. */
#include "tls_socket.h"

#include <errno.h>
#include <string.h>

static Py_ssize_t offset = -1;
#define NO_TIMEOUT INT64_C(-1000000000)
#define SOME_TIMEOUT INT64_C(4294967000000000)

bool itr_tls_probe(void) {
    if (offset >= 0) {
        return true;
    }
    PyObject *module = PyImport_ImportModule("_socket");
    PyObject *socket = module == NULL ? NULL : PyObject_CallMethod(module, "socket", NULL);
    PyObject *set = socket == NULL ? NULL : PyObject_CallMethod(socket, "settimeout", "d", 12345.0);
    if (set != NULL) {
        const int64_t wanted = INT64_C(12345) * 1000000000;
        Py_ssize_t found = -1;
        for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject); at + 8 <= Py_TYPE(socket)->tp_basicsize; at += 8) {
            if (memcmp((const char *)socket + at, &wanted, sizeof wanted) == 0) {
                found = found == -1 ? at : -2; /* twice: not sure, so not at all */
            }
        }
        Py_DECREF(set);
        set = PyObject_CallMethod(socket, "settimeout", "O", Py_None);
        int64_t none = 0;
        if (set != NULL && found > 0) {
            memcpy(&none, (const char *)socket + found, sizeof none);
            offset = none < 0 ? found : -1; /* no time-out is a negative number */
        }
    }
    PyObject *closed = socket == NULL ? NULL : PyObject_CallMethod(socket, "close", NULL);
    Py_XDECREF(closed);
    Py_XDECREF(set);
    Py_XDECREF(socket);
    Py_XDECREF(module);
    PyErr_Clear();
    return offset >= 0;
}

static int64_t *timeout_of(PyObject *socket) { return (int64_t *)(void *)((char *)socket + offset); }

/* In the target, without the GIL: another thread, with it, may set a time-out at any moment, which has to stay. */
static void flip(void *arg) {
    struct itr_tls_socket *tls = arg;
    int64_t *timeout = timeout_of(tls->socket);
    int64_t none = __atomic_load_n(timeout, __ATOMIC_RELAXED);
    if (none < 0 &&
        __atomic_compare_exchange_n(timeout, &none, SOME_TIMEOUT, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        tls->flipped = true;
    }
}

void itr_tls_enter(struct itr_tls_socket *tls, PyObject *ssl_socket, struct itr_slot *slot) {
    tls->socket = NULL;
    tls->flipped = false;
    slot->break_errno = EAGAIN;
    struct itr_slot *shielded = itr_shield();
    PyObject *owner = PyObject_GetAttrString(ssl_socket, "owner");
    PyObject *module = owner == NULL ? NULL : PyImport_ImportModule("_socket");
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, "socket");
    int is_socket = type == NULL ? 0 : PyObject_IsInstance(owner, type);
    PyErr_Clear();
    Py_XDECREF(type);
    Py_XDECREF(module);
    bool known = is_socket == 1 && itr_tls_probe();
    itr_unshield(shielded);
    if (known) {
        tls->socket = owner;
        slot->on_break_arg = tls;
        slot->on_break = flip;
        return;
    }
    Py_XDECREF(owner);
    /* Memory BIOs do not wait. A socket whose field was not found would spin on EAGAIN: leave it alone. */
    slot->unbreakable = true;
}

void itr_tls_leave(struct itr_tls_socket *tls) {
    if (tls->socket != NULL) {
        int64_t ours = SOME_TIMEOUT;
        if (tls->flipped) { /* unless another thread has set one since */
            __atomic_compare_exchange_n(timeout_of(tls->socket), &ours, NO_TIMEOUT, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED);
        }
        Py_CLEAR(tls->socket);
    }
}
