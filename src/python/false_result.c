/* Results that a broken call came back with, and nobody may see: CPython's own error for what the libc call said, an
 * empty list, a number. Anything else is the call's own, and stays. */
#include "exact.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>

#define IS_NONE LONG_MIN

/* errno of the exception that is set, IS_NONE, or 0 where it has none. */
static long errno_now(void) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *number = value == NULL ? NULL : PyObject_GetAttrString(value, "errno");
    long answer = number == Py_None ? IS_NONE : number != NULL && PyLong_Check(number) ? PyLong_AsLong(number) : 0;
    Py_XDECREF(number);
    PyErr_Restore(type, value, traceback);
    return answer;
}

/* The error that a broken park makes CPython raise. Anything else is the call's own and stays. */
static bool is_our_error(uint32_t classes) {
    if (PyErr_ExceptionMatches(PyExc_TimeoutError) || PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
        return true;
    }
    long number = PyErr_ExceptionMatches(PyExc_OSError) ? errno_now() : 0;
    return number == IS_NONE /* 3.9's socket.timeout('timed out') */ || number == ECANCELED || number == EAGAIN ||
           ((classes & ITR_LOOKUP) != 0 && number == NETDB_INTERNAL /* socket.herror */);
}

/* What database libraries and libcurl make of a wait that failed, by the names of DB-API 2.0. (Not the subclasses of
 * DatabaseError: an IntegrityError is the statement's own.) */
static bool is_client_error(uint32_t classes) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    bool ours = false;
    PyObject *mro = type != NULL && PyType_Check(type) ? ((PyTypeObject *)type)->tp_mro : NULL;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        const char *path = ((PyTypeObject *)PyTuple_GET_ITEM(mro, i))->tp_name;
        const char *dot = strrchr(path, '.');
        const char *name = dot == NULL ? path : dot + 1;
        ours = ours || strcmp(name, "OperationalError") == 0 ||
               (i == 0 && (strcmp(name, "DatabaseError") == 0 || strcmp(name, "InterfaceError") == 0 ||
                           strcmp(name, "error") == 0));
    }
    PyErr_Restore(type, value, traceback);
    return ours || is_our_error(classes);
}

static bool all_empty(PyObject *result) {
    if (PyTuple_Check(result)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(result); i++) {
            if (PyObject_Size(PyTuple_GET_ITEM(result, i)) != 0) {
                return false;
            }
        }
        return true;
    }
    return PyObject_Size(result) == 0;
}

bool itr_is_false_result(const struct itr_row *row, PyObject *result) {
    if (result == NULL) {
        return row->kind == ITR_KIND_CLIENT ? is_client_error(row->classes) : is_our_error(row->classes);
    }
    switch (row->kind) {
    case ITR_KIND_EMPTY:
        return all_empty(result);
    case ITR_KIND_NUMBER: {
        long number = PyLong_AsLong(result);
        return number == ECANCELED || number == EAGAIN || number == EINPROGRESS;
    }
    case ITR_KIND_NONE:
        return result == Py_None;
    case ITR_KIND_CLIENT: { /* CurlMulti.select() */
        int overflow = 0;
        return PyLong_CheckExact(result) && PyLong_AsLongAndOverflow(result, &overflow) == -1 && overflow == 0;
    }
    default:
        return false;
    }
}

/* Is the socket one that can be connected, and is not? Only what is interrupted leaves nothing behind: an Internet
 * connect goes on, and CPython waits for it. */
static bool is_unconnected(PyObject *socket) {
    struct itr_slot *shielded = itr_shield(); /* a subclass's fileno() */
    union {
        struct sockaddr any;
        struct sockaddr_storage space;
    } name, peer;
    socklen_t length = sizeof name;
    socklen_t peer_length = sizeof peer;
    int fd = PyObject_AsFileDescriptor(socket);
    PyErr_Clear();
    bool answer = fd >= 0 && getsockname(fd, &name.any, &length) == 0 && name.any.sa_family != AF_INET &&
                  name.any.sa_family != AF_INET6 && getpeername(fd, &peer.any, &peer_length) != 0 && errno == ENOTCONN;
    itr_unshield(shielded);
    return answer;
}

/* What a call says that CPython does not make again after EINTR (lockf, eventfd_read, ...), or makes something of:
 * pause() returns; a connect to a local socket whose queue is full "has succeeded"; the resolver may fail. Nothing was
 * done. */
bool itr_is_cut_short(const struct itr_row *row, PyObject *self, PyObject *result) {
    if (result != NULL) {
        bool succeeded = result == Py_None || (row->kind == ITR_KIND_NUMBER && PyLong_AsLong(result) == 0);
        return (row->kind == ITR_KIND_NONE && result == Py_None) ||
               ((row->classes & ITR_CONNECT) != 0 && strcmp(row->module, "_socket") == 0 && succeeded &&
                is_unconnected(self));
    }
    if (PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        return true;
    }
    return (row->classes & ITR_LOOKUP) != 0 && PyErr_ExceptionMatches(PyExc_OSError) && errno_now() == EAI_AGAIN;
}
