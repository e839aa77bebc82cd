/* The module `interruptible_threading._core`: interrupts, and what is installed. */
#include "core.h"
#include "exact.h"

/* What the module keeps is one interpreter's, and must not be another's, which may end before it. */
static bool refuse_other_interpreter(void) {
    if (itr_in_main_interpreter()) {
        return false;
    }
    PyErr_SetString(PyExc_ImportError, "interruptible_threading works in the main interpreter only");
    return true;
}

static PyObject *core_setup(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"opmap", "default_exc", "stdlib", "stdlib_names", NULL};
    PyObject *opmap, *default_exc, *stdlib, *stdlib_names;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOO!:setup", names, &PyDict_Type, &opmap, &default_exc, &stdlib,
                                     &PyFrozenSet_Type, &stdlib_names)) {
        return NULL;
    }
    if (refuse_other_interpreter()) { /* up to 3.11 the module is copied into it */
        return NULL;
    }
    itr_main_ident(); /* runs Python code, the first time */
    if (itr_inject_setup(opmap) != 0 || itr_protected_setup(stdlib, stdlib_names) != 0 || itr_async_setup() != 0) {
        return NULL;
    }
    Py_INCREF(default_exc);
    Py_XSETREF(itr_default_exception, default_exc);
    itr_api->set_hooks(itr_row_is_suspended, itr_async_on_running);
    itr_main_signals_setup();
    Py_RETURN_NONE;
}

static PyObject *core_protect(PyObject *self, PyObject *args) {
    PyObject *globals;
    int whole = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!p:protect", &PyDict_Type, &globals, &whole)) {
        return NULL;
    }
    return itr_protect(globals, whole != 0) != 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *core_interrupt(PyObject *self, PyObject *args) {
    unsigned long ident;
    long native_id;
    PyObject *exc, *reason;
    (void)self;
    if (!PyArg_ParseTuple(args, "klOO:interrupt", &ident, &native_id, &exc, &reason)) {
        return NULL;
    }
    itr_async_resume();
    struct itr_thread *t = itr_thread_of(ident, native_id);
    return t == NULL ? NULL : itr_interrupt_thread(t, exc, reason);
}

static PyObject *core_prestart(PyObject *self, PyObject *args) {
    PyObject *thread, *exc, *reason;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOO:prestart", &thread, &exc, &reason)) {
        return NULL;
    }
    return itr_prestart(thread, exc, reason);
}

static PyObject *core_prestart_over(PyObject *self, PyObject *thread) {
    (void)self;
    return PyBool_FromLong(itr_prestart_over(thread));
}

static PyObject *core_discarded(PyObject *self, PyObject *args) {
    PyObject *exc, *reason;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO:discarded", &exc, &reason)) {
        return NULL;
    }
    itr_record *record = itr_record_new(exc, reason);
    PyObject *handle = record == NULL ? NULL : itr_handle_new(record);
    if (record != NULL) {
        record->state = ITR_STATE_DISCARDED;
        Py_DECREF(record);
    }
    return handle;
}

static PyObject *core_is_interrupted(PyObject *self, PyObject *arg) {
    (void)self;
    unsigned long ident = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return NULL;
        }
        PyErr_Clear(); /* a number that no thread can have */
        Py_RETURN_FALSE;
    }
    struct itr_thread *t = itr_thread_find(ident);
    if (t != NULL) {
        itr_async_settle(t);
    }
    return PyBool_FromLong(t != NULL && (itr_thread_pending(t) || t->armed != NULL));
}

static PyObject *core_is_interrupted_prestart(PyObject *self, PyObject *thread) {
    (void)self;
    int pending = itr_prestart_pending(thread);
    return pending < 0 ? NULL : PyBool_FromLong(pending);
}

static PyObject *core_clear_interrupt(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    struct itr_thread *t = itr_thread_current();
    if (t == NULL) {
        Py_RETURN_FALSE;
    }
    itr_async_recall(t);
    bool was = itr_thread_pending(t);
    itr_discard(t);
    return PyBool_FromLong(was);
}

static PyObject *core_check_interrupt(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    struct itr_thread *t = itr_thread_current();
    if (t != NULL && __builtin_expect(itr_thread_pending(t) || t->armed != NULL, 0) && itr_deliver_here(t, true)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *core_set_default_exception(PyObject *self, PyObject *cls) {
    (void)self;
    if (!PyExceptionClass_Check(cls)) {
        PyErr_Format(PyExc_TypeError, "the default exception must be an exception class, not %R", cls);
        return NULL;
    }
    Py_INCREF(cls);
    Py_XSETREF(itr_default_exception, cls);
    Py_RETURN_NONE;
}

static PyObject *core_record_again(PyObject *self, PyObject *exc) {
    (void)self;
    struct itr_thread *t = itr_thread_attached();
    if (t == NULL || t->ended) {
        Py_RETURN_FALSE;
    }
    itr_async_settle(t);
    itr_record *record = itr_delivered_take(t, exc);
    if (record == NULL) {
        Py_RETURN_FALSE;
    }
    struct itr_slot *shielded = itr_shield(); /* what is dropped here may be the program's */
    Py_CLEAR(record->instance);               /* a new one will be made: the old one has a past */
    Py_CLEAR(record->armed_type);
    if (record->exc == exc) { /* none will: it is the caller's own */
        PyException_SetTraceback(exc, Py_None);
        PyException_SetContext(exc, NULL);
    }
    itr_unshield(shielded);
    /* From here on it can be taken back. */
    record->state = ITR_STATE_PENDING;
    int failed = PyList_Insert(t->queue, 0, (PyObject *)record);
    Py_DECREF(record);
    if (failed) {
        return NULL;
    }
    itr_api->raise(t->ref, ITR_PENDING_PY);
    Py_RETURN_TRUE;
}

static PyObject *core_last_delivered_is(PyObject *self, PyObject *exc) {
    (void)self;
    struct itr_thread *t = itr_thread_attached();
    return PyBool_FromLong(t != NULL && t->last_exact == exc);
}

static PyObject *core_install(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (!itr_exact_installed()) { /* first, so that no exact call begins with libc's own functions in the slots */
        itr_check_signals_bind();
        itr_api->bind();
    }
    if (itr_exact_install() != 0) {
        return NULL;
    }
    itr_api->bind(); /* what was imported for it */
    Py_RETURN_NONE;
}

static PyObject *core_register_library(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int policy;
    if (!PyArg_ParseTuple(args, "si:register_library", &name, &policy)) {
        return NULL;
    }
    return PyLong_FromLong(itr_api->register_library(name, policy));
}

static PyObject *core_known_libraries(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    struct itr_foreign_entry entry;
    for (size_t i = 0; list != NULL && itr_api->foreign_known(i, &entry); i++) {
        PyObject *item = Py_BuildValue("(sis)", entry.stem, entry.policy, entry.effect);
        if (item == NULL || PyList_Append(list, item) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *core_uninstall(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    itr_exact_uninstall();
    itr_api->unbind();
    Py_RETURN_NONE;
}

/* Fill a dict anew, with the hashes that its keys have now, in one step for all other threads. False: it has been
 * changed since its items were listed, which `fresh` was made of. */
static PyObject *core_refill(PyObject *self, PyObject *args) {
    PyObject *container, *items, *fresh;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!O!:refill", &PyDict_Type, &container, &PyList_Type, &items, &PyDict_Type,
                          &fresh)) {
        return NULL;
    }
    PyObject *key, *value;
    Py_ssize_t at = 0, n = 0;
    bool same = PyDict_GET_SIZE(container) == PyList_GET_SIZE(items);
    while (same && PyDict_Next(container, &at, &key, &value)) {
        PyObject *item = PyList_GET_ITEM(items, n++);
        same = PyTuple_Check(item) && PyTuple_GET_SIZE(item) == 2 && PyTuple_GET_ITEM(item, 0) == key &&
               PyTuple_GET_ITEM(item, 1) == value;
    }
    if (same) { /* nothing is freed, and nobody's code runs: `items` has it all, `fresh` is merged by the hashes it has
                 */
        PyDict_Clear(container);
        if (PyDict_Update(container, fresh) != 0) {
            return NULL;
        }
    }
    return PyBool_FromLong(same);
}

static PyObject *core_installed(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(itr_exact_installed());
}

static PyObject *core_rows(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return itr_exact_rows();
}

static PyObject *core_swapped_builtins(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return itr_exact_builtins();
}

static PyMethodDef methods[] = {
    ITR_METHOD(setup, METH_VARARGS | METH_KEYWORDS, "Tell the stub what it cannot know by itself."),
    ITR_METHOD(protect, METH_VARARGS,
               "Code with these globals is not cut; nor is what it calls, if the second is true."),
    ITR_METHOD(install, METH_NOARGS, "Swap the exact calls."),
    ITR_METHOD(uninstall, METH_NOARGS, "Put them back."),
    ITR_METHOD(installed, METH_NOARGS, "Whether they are swapped."),
    ITR_METHOD(rows, METH_NOARGS, "(name, state) of every exact call."),
    ITR_METHOD(swapped_builtins, METH_NOARGS, "The builtin functions whose hash the swap changed."),
    ITR_METHOD(interrupt, METH_VARARGS, "Interrupt the thread with this ident."),
    ITR_METHOD(prestart, METH_VARARGS, "Interrupt a thread that has not started."),
    ITR_METHOD(refill, METH_VARARGS, "Fill a dict anew from a copy of it."),
    ITR_METHOD(prestart_over, METH_O, "It has begun meanwhile: discard what it has not taken."),
    ITR_METHOD(discarded, METH_VARARGS, "A handle in the state discarded."),
    ITR_METHOD(is_interrupted, METH_O, "Whether an interrupt is pending for this ident."),
    ITR_METHOD(is_interrupted_prestart, METH_O, "Whether one is recorded for this unstarted thread."),
    ITR_METHOD(clear_interrupt, METH_NOARGS,
               "clear_interrupt()\n--\n\nDrop what is pending for the current thread; whether there was something."),
    ITR_METHOD(check_interrupt, METH_NOARGS,
               "check_interrupt()\n--\n\nRaise the pending interrupt of the current thread, unless it is masked."),
    ITR_METHOD(set_default_exception, METH_O, "What interrupt(exc=None) raises."),
    ITR_METHOD(record_again, METH_O, "An interrupt surfaced where Python cannot raise: it is pending again."),
    ITR_METHOD(last_delivered_is, METH_O, "Whether an exact call raised this instance last."),
    ITR_METHOD(register_library, METH_VARARGS, "itr_register_library()."),
    ITR_METHOD(known_libraries, METH_NOARGS, "(stem, policy, effect) of the built-in table."),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "interruptible_threading._core",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void) {
    if (refuse_other_interpreter() || itr_load_api() != 0 || PyType_Ready(&itr_record_type) != 0 ||
        PyType_Ready(&itr_handle_type) != 0 || PyType_Ready(&itr_runner_type) != 0) {
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddFunctions(module, itr_mask_methods) != 0 ||
        PyModule_AddFunctions(module, itr_looking_methods) != 0 ||
        PyModule_AddObject(module, "Handle", Py_NewRef((PyObject *)&itr_handle_type)) != 0 ||
        itr_register_hooks() != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
