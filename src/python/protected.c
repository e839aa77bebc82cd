/* Which code must not be cut (DESIGN 4.6): that of some modules, by the identity of their globals. And which belongs to
 * the standard library otherwise: whose callee it is decides. */
#include "frames.h"

#include <string.h>

static PyObject *protected_globals; /* {id(dict): dict} */
static PyObject *whole_globals;     /* ... of those under which nothing is cut either */
static PyObject *library_names;     /* its top-level modules and packages */
static char *library_prefix;        /* what its code has in front of their file's name; NULL: cannot be told */

int itr_protect(PyObject *globals, bool whole) {
    PyObject *key = PyLong_FromVoidPtr(globals);
    int result = key == NULL || PyDict_SetItem(protected_globals, key, globals) != 0 ||
                         (whole && PyDict_SetItem(whole_globals, key, globals) != 0)
                     ? -1
                     : 0;
    Py_XDECREF(key);
    return result;
}

int itr_protected_setup(PyObject *prefix, PyObject *names) {
    if (protected_globals == NULL) {
        protected_globals = PyDict_New();
        whole_globals = PyDict_New();
        if (protected_globals == NULL || whole_globals == NULL) {
            return -1;
        }
    }
    char *copy = NULL;
    if (prefix != Py_None) {
        const char *text = PyUnicode_AsUTF8(prefix);
        copy = text == NULL ? NULL : PyMem_RawMalloc(strlen(text) + 1);
        if (copy == NULL) {
            return -1;
        }
        strcpy(copy, text);
    }
    PyMem_RawFree(library_prefix);
    library_prefix = copy;
    Py_INCREF(names);
    Py_XSETREF(library_names, names);
    return 0;
}

static bool is_among(PyObject *set, PyFrameObject *frame) {
    PyObject *globals = globals_of(frame);
    PyObject *key = PyLong_FromVoidPtr(globals);
    bool found = key != NULL && PyDict_GetItem(set, key) != NULL;
    Py_XDECREF(key);
    Py_DECREF(globals);
    return found;
}

bool itr_is_protected(PyFrameObject *frame) { return is_among(protected_globals, frame); }

bool itr_is_whole(PyFrameObject *frame) { return is_among(whole_globals, frame); }

/* By the first part of what is behind the prefix. A program that was frozen may have its own modules in the same place.
 */
bool itr_is_library(PyCodeObject *code) {
    static const char frozen[] = "<frozen ";
    const char *file = PyUnicode_AsUTF8(code->co_filename);
    if (file == NULL) {
        PyErr_Clear();
        return false;
    }
    if (strncmp(file, frozen, sizeof frozen - 1) == 0) {
        file += sizeof frozen - 1;
    } else if (library_prefix != NULL && strncmp(file, library_prefix, strlen(library_prefix)) == 0) {
        file += strlen(library_prefix);
    } else {
        return false;
    }
    PyObject *name = PyUnicode_FromStringAndSize(file, (Py_ssize_t)strcspn(file, "./>"));
    bool found = name != NULL && PySet_Contains(library_names, name) == 1;
    Py_XDECREF(name);
    PyErr_Clear();
    return found;
}
