/* What io's C code drops.
 *
 * Its finalizer reads `closed`, sets `_finalizing`, calls close(), which closes what is below too, and drops whatever
 * comes out of these. No hook is told (but in the development mode), so an interrupt that is raised in there is lost
 * for ever, whether code is cut or a wait is broken. Nor can a frame tell: SocketIO.close() looks the same when the
 * program calls it. So the whole finalizer is masked; what is pending comes when it is over.
 *
 * The buffered classes ask their raw file where it stands as they are made and when they truncate, and drop what comes
 * out; and when they ask whether it is closed, whatever comes out means yes: "read of closed file". */
#include "frames.h"

static PyObject *name_seek, *name_readinto, *name_write;
static destructor original;

static void finalize(PyObject *self) {
    struct itr_slot *shielded = itr_shield();
    original(self);
    itr_unshield(shielded);
}

/* In this class and those that have inherited it. Whether or not this one has: its subclasses may, from another base.
 */
static int replace(PyTypeObject *type) {
    if (type->tp_finalize == original) {
        type->tp_finalize = finalize;
    }
    PyObject *subclasses = PyObject_CallMethod((PyObject *)&PyType_Type, "__subclasses__", "O", type);
    int failed = subclasses == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(subclasses); i++) {
        failed = replace((PyTypeObject *)PyList_GET_ITEM(subclasses, i));
    }
    Py_XDECREF(subclasses);
    return failed;
}

int itr_io_dropped_setup(void) {
    PyObject *io = PyImport_ImportModule("_io");
    PyObject *base = io == NULL ? NULL : PyObject_GetAttrString(io, "_IOBase");
    PyObject *del = base == NULL ? NULL : PyObject_GetAttrString(base, "__del__");
    int failed = del == NULL || !PyType_Check(base) ? -1 : 0;
    Py_XSETREF(name_seek, PyUnicode_InternFromString("seek"));
    Py_XSETREF(name_readinto, PyUnicode_InternFromString("readinto"));
    Py_XSETREF(name_write, PyUnicode_InternFromString("write"));
    failed = name_seek == NULL || name_readinto == NULL || name_write == NULL ? -1 : failed;
    if (!failed && original == NULL && Py_IS_TYPE(del, &PyWrapperDescr_Type)) {
        PyWrapperDescrObject *wrapper = (PyWrapperDescrObject *)del;
        original = ((PyTypeObject *)base)->tp_finalize;
        if (original != NULL && wrapper->d_wrapped == (void *)(uintptr_t)original) {
            wrapper->d_wrapped = (void *)(uintptr_t)finalize; /* first: from here on new classes inherit this */
            failed = replace((PyTypeObject *)base);
        }
    }
    Py_XDECREF(del);
    Py_XDECREF(base);
    Py_XDECREF(io);
    return failed;
}

static bool is_number(PyObject *object, long number) {
    int overflow = 0;
    return object != NULL && PyLong_CheckExact(object) && PyLong_AsLongAndOverflow(object, &overflow) == number;
}

/* Can it be buffered? It need not be one of io's classes: tarfile has one of its own. */
static bool is_raw_file(PyObject *self) {
    return self != NULL && _PyType_Lookup(Py_TYPE(self), name_seek) != NULL &&
           (_PyType_Lookup(Py_TYPE(self), name_readinto) != NULL || _PyType_Lookup(Py_TYPE(self), name_write) != NULL);
}

/* Such a question; or tell() as io.RawIOBase has it, which is seek(0, 1). That the program has asked cannot be told:
 * its interrupt waits a little longer. */
bool itr_is_question_of_io(PyFrameObject *frame, PyCodeObject *code) {
    bool seeks = named(code, "seek") && code->co_argcount >= 3;
    if (!seeks && ((!named(code, "closed") && !named(code, "tell")) || code->co_argcount != 1)) {
        return false;
    }
    PyObject *self = itr_local_at(frame, code, 0);
    bool found = is_raw_file(self);
    Py_XDECREF(self);
    if (found && seeks) {
        PyObject *offset = itr_local_at(frame, code, 1), *whence = itr_local_at(frame, code, 2);
        found = is_number(offset, 0) && is_number(whence, 1);
        Py_XDECREF(offset);
        Py_XDECREF(whence);
    }
    return found;
}
