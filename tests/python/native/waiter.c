/* An extension module as many are: it waits, or computes, and asks PyErr_CheckSignals() now and then whether to go on.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <poll.h>

/* wait(fd): until fd is readable. Retries after EINTR, as PEP 475 wants it. */
static PyObject *waiter_wait(PyObject *self, PyObject *arg) {
    (void)self;
    struct pollfd set = {.fd = (int)PyLong_AsLong(arg), .events = POLLIN};
    for (;;) {
        int result;
        int error;
        Py_BEGIN_ALLOW_THREADS result = poll(&set, 1, -1);
        error = errno;
        Py_END_ALLOW_THREADS if (result >= 0) { return PyLong_FromLong(result); }
        if (error != EINTR) {
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (PyErr_CheckSignals() != 0) {
            return NULL;
        }
    }
}

static volatile int begun;

static PyObject *waiter_begun(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(begun);
}

/* compute(): for ever, with the GIL given up in between. */
static PyObject *waiter_compute(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    for (;;) {
        begun = 1;
        Py_BEGIN_ALLOW_THREADS for (volatile int i = 0; i < 1000; i++) {}
        Py_END_ALLOW_THREADS if (PyErr_CheckSignals() != 0) {
            begun = 0;
            return NULL;
        }
    }
}

static PyMethodDef methods[] = {
    {"wait", waiter_wait, METH_O, NULL},
    {"begun", waiter_begun, METH_NOARGS, NULL},
    {"compute", waiter_compute, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "waiter", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_waiter(void) { return PyModule_Create(&definition); }
