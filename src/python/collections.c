/* A stretch without garbage collections, up to 3.11. There the collector runs when anything is allocated that it looks
 * after, and calls whatever the program has (gc.callbacks, finalizers), which may give up the GIL. Later versions only
 * note that it is due. */
#include "core.h"

#if !ITR_BY_PENDING_CALL
#if PY_VERSION_HEX >= 0x030A0000
bool itr_collections_off(void) { return PyGC_Disable() != 0; }

void itr_collections_on(bool were) {
    if (were) {
        PyGC_Enable();
    }
}
int itr_collections_setup(void) { return 0; }
#else
static PyObject *gc_isenabled, *gc_disable, *gc_enable;

bool itr_collections_off(void) {
    PyObject *were = PyObject_CallObject(gc_isenabled, NULL);
    PyObject *done = PyObject_CallObject(gc_disable, NULL);
    Py_XDECREF(done);
    Py_XDECREF(were);
    PyErr_Clear();
    return were == Py_True;
}

void itr_collections_on(bool were) {
    PyObject *done = were ? PyObject_CallObject(gc_enable, NULL) : NULL;
    Py_XDECREF(done);
    PyErr_Clear();
}

int itr_collections_setup(void) {
    PyObject *gc = PyImport_ImportModule("gc");
    if (gc == NULL) {
        return -1;
    }
    Py_XSETREF(gc_isenabled, PyObject_GetAttrString(gc, "isenabled"));
    Py_XSETREF(gc_disable, PyObject_GetAttrString(gc, "disable"));
    Py_XSETREF(gc_enable, PyObject_GetAttrString(gc, "enable"));
    Py_DECREF(gc);
    return gc_isenabled == NULL || gc_disable == NULL || gc_enable == NULL ? -1 : 0;
}
#endif
#endif
