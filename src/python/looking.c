/* Looking at threads and at the library itself; nothing changes here. */
#include "core.h"
#include "exact.h"
#include "frames.h"
#include "held.h"
#include "tls_socket.h"

static PyObject *core_alive(PyObject *self, PyObject *arg) {
    (void)self;
    unsigned long ident = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    return PyBool_FromLong(itr_tstate_of(ident) != NULL);
}

struct search {
    long native_id;
    unsigned long ident;
};

static void match_native(struct itr_slot *slot, void *arg) {
    struct search *s = arg;
    if (slot->tid == s->native_id) {
        s->ident = (unsigned long)slot->thread;
    }
}

static PyObject *core_ident_of_native(PyObject *self, PyObject *arg) {
    (void)self;
    struct search s = {PyLong_AsLong(arg), 0};
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return PyLong_FromLong(0);
    }
    itr_api->each_slot(match_native, &s);
#if PY_VERSION_HEX >= 0x030B0000
    for (PyThreadState *tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
         tstate != NULL && s.ident == 0; tstate = PyThreadState_Next(tstate)) {
        if (tstate->native_thread_id == (unsigned long)s.native_id) {
            s.ident = tstate->thread_id;
        }
    }
#endif
    return PyLong_FromUnsignedLong(s.ident);
}

static PyObject *core_park_info(PyObject *self, PyObject *arg) {
    (void)self;
    unsigned long ident = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    struct itr_slot *slot = itr_api->lock_thread((pthread_t)ident);
    if (slot == NULL) {
        Py_RETURN_NONE;
    }
    bool parked = atomic_load_explicit(&slot->park, memory_order_acquire) != 0;
    const char *call = parked ? atomic_load_explicit(&slot->call, memory_order_relaxed) : NULL;
    int fd = parked ? atomic_load_explicit(&slot->fd, memory_order_relaxed) : -1;
    double since = (double)atomic_load_explicit(&slot->since_ns, memory_order_relaxed) / 1e9;
    unsigned exact = atomic_load_explicit(&slot->exact, memory_order_relaxed);
    unsigned mask = atomic_load_explicit(&slot->mask, memory_order_relaxed);
    unsigned pending = atomic_load_explicit(&slot->pending, memory_order_relaxed);
    unsigned long long parks = atomic_load_explicit(&slot->parks, memory_order_relaxed);
    itr_api->unlock(slot);
    char library[64];
    itr_api->foreign_name(slot, library, sizeof library);
    return Py_BuildValue("{s:N,s:z,s:i,s:d,s:N,s:I,s:N,s:K,s:s}", "parked", PyBool_FromLong(parked), "call", call, "fd",
                         fd, "since", since, "exact", PyBool_FromLong(exact != 0), "mask", mask, "pending",
                         PyBool_FromLong(pending != 0), "parks", parks, "library", library);
}

static void add_ident(struct itr_slot *slot, void *list) {
    PyObject *ident = PyLong_FromUnsignedLong((unsigned long)slot->thread);
    if (ident == NULL || PyList_Append(list, ident) != 0) {
        PyErr_Clear();
    }
    Py_XDECREF(ident);
}

static PyObject *core_threads(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    if (list != NULL) {
        itr_api->each_slot(add_ident, list);
    }
    return list;
}

static PyObject *core_status(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    int error = itr_api->monitor_error();
    return Py_BuildValue("{s:I,s:N,s:N,s:i,s:s,s:N,s:s,s:i,s:N,s:N,s:z,s:N}", "abi", (unsigned)itr_api->abi,
                         "preloaded", PyBool_FromLong(itr_api->preloaded()), "active",
                         PyBool_FromLong(itr_api->active()), "bound", itr_api->bound(), "library", itr_library_path,
                         "installed", PyBool_FromLong(itr_exact_installed()), "injection", itr_async_mode(), "signal",
                         itr_api->signal_number(), "signal_ours", PyBool_FromLong(itr_api->signal_ours()), "monitor",
                         PyBool_FromLong(itr_api->monitor_runs()), "monitor_error", error == 0 ? NULL : strerror(error),
                         "tls", PyBool_FromLong(itr_tls_probe()));
}

static PyObject *core_held(PyObject *self, PyObject *code) {
    (void)self;
    if (!PyCode_Check(code)) {
        return PyErr_Format(PyExc_TypeError, "held() takes a code object, not %R", code);
    }
    PyObject *bytes = bytes_of((PyCodeObject *)code);
    PyObject *map = bytes == NULL ? NULL : itr_held_map((PyCodeObject *)code, bytes);
    Py_XDECREF(bytes);
    return map;
}

PyMethodDef itr_looking_methods[] = {
    ITR_METHOD(alive, METH_O, "Whether a thread state has this ident."),
    ITR_METHOD(ident_of_native, METH_O, "The ident of a native id; 0: unknown."),
    ITR_METHOD(park_info, METH_O, "Where the thread is parked."),
    ITR_METHOD(threads, METH_NOARGS, "Idents of the attached threads."),
    ITR_METHOD(held, METH_O, "What is on the stack in front of each code unit; for the tests."),
    ITR_METHOD(status, METH_NOARGS, "What is active."),
    {NULL, NULL, 0, NULL},
};
