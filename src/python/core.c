/* The module `interruptible_threading._core`. */
#include "core.h"
#include "exact.h"
#include "tls_socket.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

const struct itr_stub_api *itr_api;
static char *library_path;

/* ---- finding the shim
 * ---------------------------------------------------------------------------------------------------------- */

typedef const struct itr_stub_api *(*api_function)(void);

#define SHIM "libinterruptible.so"

static int find_shim(struct dl_phdr_info *info, size_t size, void *path) {
    (void)size;
    const char *slash = info->dlpi_name == NULL ? NULL : strrchr(info->dlpi_name, '/');
    if (slash == NULL || strcmp(slash + 1, SHIM) != 0) {
        return 0;
    }
    *(char **)path = strdup(info->dlpi_name);
    return 1;
}

/* There must be one flag table in a process: a copy of the shim that is here already is the one to use, be it preloaded
 * or loaded with ctypes, where no other object sees its symbols. Else the copy beside this module. */
static void *load_shim(const char *own_file) {
    char *path = NULL;
    dl_iterate_phdr(find_shim, &path);
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    free(path);
    if (library != NULL) {
        return library;
    }
    const char *slash = strrchr(own_file, '/');
    size_t n = slash == NULL ? 0 : (size_t)(slash - own_file) + 1;
    char *beside = PyMem_RawMalloc(n + sizeof SHIM);
    if (beside == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(beside, own_file, n);
    strcpy(beside + n, SHIM);
    library = dlopen(beside, RTLD_NOW | RTLD_GLOBAL);
    PyMem_RawFree(beside);
    if (library == NULL) {
        PyErr_Format(PyExc_ImportError, "cannot load the shim: %s", dlerror());
    }
    return library;
}

static api_function find_api(const char *own_file) {
    union {
        void *data;
        api_function function;
    } symbol = {dlsym(RTLD_DEFAULT, "itr_stub_api")};
    if (symbol.data == NULL) {
        void *library = load_shim(own_file);
        if (library == NULL) {
            return NULL;
        }
        symbol.data = dlsym(library, "itr_stub_api");
        if (symbol.data == NULL) {
            PyErr_SetString(PyExc_ImportError, SHIM " is not this package's shim: it has no itr_stub_api");
        }
    }
    return symbol.function;
}

static int load_api(void) {
    Dl_info own;
    if (dladdr((void *)(uintptr_t)&itr_api, &own) == 0 || own.dli_fname == NULL) {
        PyErr_SetString(PyExc_ImportError, "cannot tell where _core was loaded from");
        return -1;
    }
    api_function function = find_api(own.dli_fname);
    if (function == NULL) {
        return -1;
    }
    const struct itr_stub_api *api = function();
    if (api->abi != ITR_ABI_VERSION || api->slot_size != sizeof(struct itr_slot)) {
        PyErr_Format(
            PyExc_ImportError,
            "libinterruptible.so has ABI version %u, this _core was built for %u: preload the copy that came with "
            "this package, or none",
            (unsigned)api->abi, ITR_ABI_VERSION);
        return -1;
    }
    Dl_info shim;
    if (dladdr((void *)(uintptr_t)function, &shim) != 0 && shim.dli_fname != NULL && library_path == NULL) {
        library_path = strdup(shim.dli_fname);
    }
    itr_api = api;
    return 0;
}

/* ---- interrupts
 * ------------------------------------------------------------------------------------------------------------------ */

/* What the module keeps is one interpreter's, and must not be another's, which may end before it. */
static bool refuse_other_interpreter(void) {
    if (itr_in_main_interpreter()) {
        return false;
    }
    PyErr_SetString(PyExc_ImportError, "interruptible_threading works in the main interpreter only");
    return true;
}

static PyObject *core_setup(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"opmap", "default_exc", "protected", "stdlib", NULL};
    PyObject *opmap, *default_exc, *protected_list, *stdlib;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OO!U:setup", names, &PyDict_Type, &opmap, &default_exc,
                                     &PyList_Type, &protected_list, &stdlib)) {
        return NULL;
    }
    if (refuse_other_interpreter()) { /* up to 3.11 the module is copied into it */
        return NULL;
    }
    if (itr_inject_setup(opmap, protected_list, stdlib) != 0 || itr_async_setup() != 0) {
        return NULL;
    }
    Py_INCREF(default_exc);
    Py_XSETREF(itr_default_exception, default_exc);
    itr_api->set_hooks(itr_row_is_suspended, NULL, itr_async_on_running);
    Py_RETURN_NONE;
}

static PyObject *core_protect(PyObject *self, PyObject *globals) {
    (void)self;
    if (!PyDict_Check(globals)) {
        PyErr_Format(PyExc_TypeError, "protect() takes a module's __dict__, not %R", globals);
        return NULL;
    }
    return itr_inject_protect(globals) != 0 ? NULL : Py_NewRef(Py_None);
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
    PyObject *queue = PyList_GetSlice(t->queue, 0, PyList_GET_SIZE(t->queue));
    if (queue == NULL || PyList_SetSlice(t->queue, 0, PyList_GET_SIZE(t->queue), NULL) != 0) {
        Py_XDECREF(queue);
        return NULL;
    }
    itr_api->consume(t->slot, ITR_PENDING_PY | ITR_PENDING_API);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(queue); i++) {
        itr_record_resolve((itr_record *)PyList_GET_ITEM(queue, i), ITR_STATE_DISCARDED);
    }
    Py_DECREF(queue);
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

/* ---- masks
 * ---------------------------------------------------------------------------------------------------------------------------
 */

static int level_of(PyObject *arg) {
    long level = PyLong_AsLong(arg);
    if (level != ITR_MASK_BLOCKING && level != ITR_MASK_ALL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError,
                         "a mask level is 1 (deliver at blocking calls) or 2 (deliver nothing), not %ld", level);
        }
        return -1;
    }
    return (int)level;
}

static PyObject *core_mask(PyObject *self, PyObject *arg) {
    (void)self;
    int level = level_of(arg);
    struct itr_thread *t = level < 0 ? NULL : itr_thread_current();
    if (t != NULL) {
        t->user_masks[level]++;
        itr_api->mask_push(t->slot, level);
        itr_async_recall(t);
    }
    return level < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *core_unmask(PyObject *self, PyObject *arg) {
    (void)self;
    int level = level_of(arg);
    if (level < 0) {
        return NULL;
    }
    struct itr_thread *t = itr_thread_current();
    if (t == NULL) {
        Py_RETURN_NONE;
    }
    if (t->user_masks[level] == 0) {
        PyErr_SetString(PyExc_RuntimeError, "unmask() without the mask() that it ends");
        return NULL;
    }
    t->user_masks[level]--;
    /* Lowers the mask, then looks (both seq_cst in mask_pop and here). */
    itr_api->mask_pop(t->slot, level);
    if (atomic_load_explicit(&t->slot->pending, memory_order_seq_cst) == 0) {
        Py_RETURN_NONE;
    }
    if (t->redirect != NULL) {
        if (t->user_masks[ITR_MASK_ALL] == 0) {
            PyObject *told = PyObject_CallObject(t->redirect, NULL);
            if (told == NULL) {
                return NULL;
            }
            Py_DECREF(told);
        }
        Py_RETURN_NONE;
    }
    if (t->user_masks[ITR_MASK_ALL] == 0 && t->user_masks[ITR_MASK_BLOCKING] == 0 && itr_deliver_here(t, false)) {
        return NULL;
    }
    if (t->user_masks[ITR_MASK_ALL] == 0) {
        itr_api->kick(t->ref);
    }
    Py_RETURN_NONE;
}

static PyObject *core_masked(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    struct itr_thread *t = itr_thread_attached();
    int level = t == NULL                               ? 0
                : t->user_masks[ITR_MASK_ALL] != 0      ? ITR_MASK_ALL
                : t->user_masks[ITR_MASK_BLOCKING] != 0 ? ITR_MASK_BLOCKING
                                                        : ITR_MASK_NONE;
    return PyLong_FromLong(level);
}

static PyObject *core_uninterruptible(PyObject *self, PyObject *code) {
    (void)self;
    if (!PyCode_Check(code)) {
        PyErr_Format(PyExc_TypeError, "uninterruptible() takes a code object, not %R", code);
        return NULL;
    }
    return itr_inject_uninterruptible(code) != 0 ? NULL : Py_NewRef(Py_None);
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

/* ---- redirection (asyncio)
 * ------------------------------------------------------------------------------------------------------------- */

static PyObject *core_set_redirect(PyObject *self, PyObject *callback) {
    (void)self;
    struct itr_thread *t = itr_thread_current();
    if (t == NULL) {
        Py_RETURN_NONE;
    }
    if (callback == Py_None && t->redirect != NULL) {
        atomic_store_explicit(&t->redirected, 0, memory_order_release);
        Py_CLEAR(t->redirect);
        itr_api->mask_pop(t->slot, ITR_MASK_ALL);
        if (itr_thread_pending(t)) {
            itr_api->kick(t->ref);
        }
    } else if (callback != Py_None) {
        if (t->redirect == NULL) {
            itr_api->mask_push(t->slot, ITR_MASK_ALL);
        }
        Py_INCREF(callback);
        Py_XSETREF(t->redirect, callback);
        atomic_store_explicit(&t->redirected, 1, memory_order_release);
        itr_async_recall(t);
    }
    Py_RETURN_NONE;
}

static PyObject *core_take(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    struct itr_thread *t = itr_thread_current();
    if (t == NULL || t->user_masks[ITR_MASK_ALL] != 0) {
        Py_RETURN_NONE;
    }
    PyObject *instance = itr_take(t);
    if (instance == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return instance;
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
    record->state = ITR_STATE_PENDING;
    int failed = PyList_Insert(t->queue, 0, (PyObject *)record);
    Py_CLEAR(record->instance); /* a new one will be made: the old one has a past */
    if (record->exc == exc) {   /* none will: it is the caller's own */
        PyException_SetTraceback(exc, Py_None);
        PyException_SetContext(exc, NULL);
    }
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

/* ---- looking
 * -----------------------------------------------------------------------------------------------------------------------------
 */

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
    const void *caller = parked ? atomic_load_explicit(&slot->caller, memory_order_relaxed) : NULL;
    itr_api->unlock(slot);
    char library[64];
    itr_api->foreign_name(caller, library, sizeof library);
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
    return Py_BuildValue("{s:I,s:N,s:N,s:i,s:s,s:N,s:s,s:i,s:N,s:N,s:N}", "abi", (unsigned)itr_api->abi, "preloaded",
                         PyBool_FromLong(itr_api->preloaded()), "active", PyBool_FromLong(itr_api->active()), "bound",
                         itr_api->bound(), "library", library_path, "installed", PyBool_FromLong(itr_exact_installed()),
                         "injection", itr_async_mode(), "signal", itr_api->signal_number(), "signal_ours",
                         PyBool_FromLong(itr_api->signal_ours()), "monitor", PyBool_FromLong(itr_api->monitor_runs()),
                         "tls", PyBool_FromLong(itr_tls_probe()));
}

/* ---- installing
 * ----------------------------------------------------------------------------------------------------------------------------
 */

static PyObject *core_install(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (itr_exact_install() != 0) {
        return NULL;
    }
    itr_check_signals_bind();
    itr_api->bind();
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

#define FUNCTION(name, flags, text)                                                                                    \
    { #name, (PyCFunction)(void (*)(void))core_##name, flags, text }
static PyMethodDef methods[] = {
    FUNCTION(setup, METH_VARARGS | METH_KEYWORDS, "Tell the stub what it cannot know by itself."),
    FUNCTION(protect, METH_O, "Code with these globals is not cut."),
    FUNCTION(install, METH_NOARGS, "Swap the exact calls."),
    FUNCTION(uninstall, METH_NOARGS, "Put them back."),
    FUNCTION(installed, METH_NOARGS, "Whether they are swapped."),
    FUNCTION(rows, METH_NOARGS, "(name, state) of every exact call."),
    FUNCTION(swapped_builtins, METH_NOARGS, "The builtin functions whose hash the swap changed."),
    FUNCTION(interrupt, METH_VARARGS, "Interrupt the thread with this ident."),
    FUNCTION(prestart, METH_VARARGS, "Interrupt a thread that has not started."),
    FUNCTION(discarded, METH_VARARGS, "A handle in the state discarded."),
    FUNCTION(is_interrupted, METH_O, "Whether an interrupt is pending for this ident."),
    FUNCTION(is_interrupted_prestart, METH_O, "Whether one is recorded for this unstarted thread."),
    FUNCTION(clear_interrupt, METH_NOARGS,
             "clear_interrupt()\n--\n\nDrop what is pending for the current thread; whether there was something."),
    FUNCTION(check_interrupt, METH_NOARGS,
             "check_interrupt()\n--\n\nRaise the pending interrupt of the current thread, unless it is masked."),
    FUNCTION(mask, METH_O, "Push a mask level."),
    FUNCTION(unmask, METH_O, "Pop it; the outermost pop delivers."),
    FUNCTION(masked, METH_NOARGS, "The effective level."),
    FUNCTION(uninterruptible, METH_O, "Never inject while this code runs."),
    FUNCTION(set_default_exception, METH_O, "What interrupt(exc=None) raises."),
    FUNCTION(set_redirect, METH_O, "Call this instead of raising in the current thread."),
    FUNCTION(take, METH_NOARGS, "Consume the next pending interrupt; its exception or None."),
    FUNCTION(record_again, METH_O, "An interrupt surfaced where Python cannot raise: it is pending again."),
    FUNCTION(last_delivered_is, METH_O, "Whether an exact call raised this instance last."),
    FUNCTION(alive, METH_O, "Whether a thread state has this ident."),
    FUNCTION(ident_of_native, METH_O, "The ident of a native id; 0: unknown."),
    FUNCTION(park_info, METH_O, "Where the thread is parked."),
    FUNCTION(threads, METH_NOARGS, "Idents of the attached threads."),
    FUNCTION(status, METH_NOARGS, "What is active."),
    FUNCTION(register_library, METH_VARARGS, "itr_register_library()."),
    FUNCTION(known_libraries, METH_NOARGS, "(stem, policy, effect) of the built-in table."),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "interruptible_threading._core",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void) {
    if (refuse_other_interpreter() || load_api() != 0 || PyType_Ready(&itr_record_type) != 0 ||
        PyType_Ready(&itr_handle_type) != 0 || PyType_Ready(&itr_runner_type) != 0) {
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddObject(module, "Handle", Py_NewRef((PyObject *)&itr_handle_type)) != 0 ||
        itr_register_hooks() != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
