/* The rows, their thunks, and the swap of ml_meth.
 *
 * CPython calls a builtin through the ml_meth of its PyMethodDef, loaded at every call: references captured before the
 * swap, bound methods, subclasses and specialised bytecode all go through the wrapper (cpython_blocking, section 6).
 * The calling convention stays what it was, so each row has a thunk per convention. */
#include "exact.h"

#include <string.h>

enum row_id {
#define ITR_EXACT(id, module, type, method, kind, classes) ROW_##id,
#include "client_calls.def"
#include "exact_calls.def"
#undef ITR_EXACT
    N_ROWS
};

static struct itr_row rows[N_ROWS] = {
#define ITR_EXACT(id, module, type, method, kind, classes)                                                             \
    [ROW_##id] = {module, type, method, ITR_KIND_##kind, (classes)},
#include "client_calls.def"
#include "exact_calls.def"
#undef ITR_EXACT
};

static bool installed;

/* ---- thunks
 * ------------------------------------------------------------------------------------------------------------------ */

#define ITR_EXACT(id, module, type, method, kind, classes)                                                             \
    static PyObject *varargs_##id(PyObject *self, PyObject *args) {                                                    \
        return itr_dispatch(&(struct itr_call){.row = &rows[ROW_##id], .self = self, .args = args});                   \
    }                                                                                                                  \
    static PyObject *keywords_##id(PyObject *self, PyObject *args, PyObject *kwargs) {                                 \
        return itr_dispatch(&(struct itr_call){.row = &rows[ROW_##id], .self = self, .args = args, .kwargs = kwargs}); \
    }                                                                                                                  \
    static PyObject *fast_##id(PyObject *self, PyObject *const *vector, Py_ssize_t n) {                                \
        return itr_dispatch(&(struct itr_call){.row = &rows[ROW_##id], .self = self, .vector = vector, .n = n});       \
    }                                                                                                                  \
    static PyObject *fast_keywords_##id(PyObject *self, PyObject *const *vector, Py_ssize_t n, PyObject *names) {      \
        return itr_dispatch(                                                                                           \
            &(struct itr_call){.row = &rows[ROW_##id], .self = self, .vector = vector, .n = n, .names = names});       \
    }                                                                                                                  \
    static int init_##id(PyObject *self, PyObject *args, PyObject *kwargs) {                                           \
        PyObject *done = keywords_##id(self, args, kwargs);                                                            \
        Py_XDECREF(done);                                                                                              \
        return done == NULL ? -1 : 0;                                                                                  \
    }                                                                                                                  \
    static PyObject *method_##id(PyObject *self, PyTypeObject *defining, PyObject *const *vector, Py_ssize_t n,        \
                                 PyObject *names) {                                                                    \
        return itr_dispatch(&(struct itr_call){                                                                        \
            .row = &rows[ROW_##id], .self = self, .defining = defining, .vector = vector, .n = n, .names = names});    \
    }
#include "client_calls.def"
#include "exact_calls.def"
#undef ITR_EXACT

typedef void (*any_function)(void);
static const struct {
    any_function varargs, keywords, fast, fast_keywords, method, init;
} thunks[N_ROWS] = {
#define ITR_EXACT(id, module, type, method, kind, classes)                                                             \
    [ROW_##id] = {(any_function)varargs_##id,       (any_function)keywords_##id, (any_function)fast_##id,              \
                  (any_function)fast_keywords_##id, (any_function)method_##id,   (any_function)init_##id},
#include "client_calls.def"
#include "exact_calls.def"
#undef ITR_EXACT
};

static any_function thunk_for(int id, int convention) {
    switch (convention) {
    case METH_NOARGS:
    case METH_O:
    case METH_VARARGS:
        return thunks[id].varargs;
    case METH_VARARGS | METH_KEYWORDS:
        return thunks[id].keywords;
    case METH_FASTCALL:
        return thunks[id].fast;
    case METH_FASTCALL | METH_KEYWORDS:
        return thunks[id].fast_keywords;
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
        return thunks[id].method;
    default:
        return NULL;
    }
}

/* ---- calling the original
 * ---------------------------------------------------------------------------------------------------- */

typedef PyObject *(*fast_function)(PyObject *, PyObject *const *, Py_ssize_t);
typedef PyObject *(*fast_keywords_function)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
typedef PyObject *(*method_function)(PyObject *, PyTypeObject *, PyObject *const *, Py_ssize_t, PyObject *);
typedef PyObject *(*keywords_function)(PyObject *, PyObject *, PyObject *);

PyObject *itr_call_original(const struct itr_call *c) {
    any_function f = (any_function)c->row->original;
    if (c->row->init != NULL) {
        return ((initproc)f)(c->self, c->args, c->kwargs) == 0 ? Py_NewRef(Py_None) : NULL;
    }
    switch (c->row->convention) {
    case METH_VARARGS | METH_KEYWORDS:
        return ((keywords_function)f)(c->self, c->args, c->kwargs);
    case METH_FASTCALL:
        return ((fast_function)f)(c->self, c->vector, c->n);
    case METH_FASTCALL | METH_KEYWORDS:
        return ((fast_keywords_function)f)(c->self, c->vector, c->n, c->names);
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
        return ((method_function)f)(c->self, c->defining, c->vector, c->n, c->names);
    default:
        return c->row->original(c->self, c->args);
    }
}

PyObject *itr_call_with(const struct itr_call *c, struct itr_row *row, PyObject *const *args, Py_ssize_t n) {
    struct itr_call own = *c;
    own.row = row;
    own.vector = args;
    own.n = n;
    own.names = NULL;
    own.kwargs = NULL;
    own.args = NULL;
    if ((row->convention & METH_VARARGS) != 0) {
        PyObject *tuple = PyTuple_New(n);
        if (tuple == NULL) {
            return NULL;
        }
        for (Py_ssize_t i = 0; i < n; i++) {
            Py_INCREF(args[i]);
            PyTuple_SET_ITEM(tuple, i, args[i]);
        }
        own.args = tuple;
    }
    PyObject *result = itr_call_original(&own);
    Py_XDECREF(own.args);
    return result;
}

Py_ssize_t itr_argument_count(const struct itr_call *c) {
    int convention = c->row->convention;
    if ((convention & METH_VARARGS) != 0) {
        return PyTuple_GET_SIZE(c->args) + (c->kwargs == NULL ? 0 : PyDict_GET_SIZE(c->kwargs));
    }
    if ((convention & METH_FASTCALL) != 0) {
        return c->n + (c->names == NULL ? 0 : PyTuple_GET_SIZE(c->names));
    }
    return convention == METH_O;
}

PyObject *itr_argument(const struct itr_call *c, Py_ssize_t at, const char *name) {
    int convention = c->row->convention;
    if ((convention & METH_VARARGS) != 0) {
        if (at < PyTuple_GET_SIZE(c->args)) {
            return PyTuple_GET_ITEM(c->args, at);
        }
        return c->kwargs == NULL ? NULL : PyDict_GetItemString(c->kwargs, name);
    }
    if ((convention & METH_FASTCALL) != 0) {
        if (at < c->n) {
            return c->vector[at];
        }
        for (Py_ssize_t i = 0; c->names != NULL && i < PyTuple_GET_SIZE(c->names); i++) {
            if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(c->names, i), name) == 0) {
                return c->vector[c->n + i];
            }
        }
        return NULL;
    }
    return convention == METH_O && at == 0 ? c->args : NULL;
}

/* ---- finding and swapping
 * ---------------------------------------------------------------------------------------------------- */

/* The object in `module` whose dict holds the row's function (new reference); NULL: this interpreter lacks it. */
static PyObject *holder_in(PyObject *module, const struct itr_row *row) {
    PyObject *holder = NULL;
    if (row->type[0] == '\0') {
        holder = module;
        Py_INCREF(holder);
    } else if (row->type[0] == '=') {
        PyObject *sample = PyObject_CallMethod(module, row->type + 1, NULL);
        if (sample != NULL) {
            holder = (PyObject *)Py_TYPE(sample);
            Py_INCREF(holder);
            Py_DECREF(sample);
        }
    } else {
        holder = PyObject_GetAttrString(module, row->type);
    }
    PyErr_Clear();
    return holder;
}

static void find(struct itr_row *row, PyObject *module) {
    row->trouble = module == NULL ? "not imported" : NULL;
    PyObject *holder = module == NULL ? NULL : holder_in(module, row);
    if (holder == NULL) {
        row->trouble = row->trouble == NULL ? "absent" : row->trouble;
        return;
    }
    PyObject *function = PyObject_GetAttrString(holder, row->method);
    if (function == NULL) {
        PyErr_Clear();
        row->trouble = "absent";
    } else if (PyCFunction_Check(function) && PyModule_Check(holder)) {
        row->def = ((PyCFunctionObject *)function)->m_ml;
        Py_INCREF(function);
        Py_XSETREF(row->builtin, function);
    } else if (Py_IS_TYPE(function, &PyMethodDescr_Type)) {
        row->def = ((PyMethodDescrObject *)function)->d_method;
    } else if (Py_IS_TYPE(function, &PyWrapperDescr_Type) && strcmp(row->method, "__init__") == 0) {
        row->init = (PyWrapperDescrObject *)Py_NewRef(function); /* of a static type: it stays for ever */
        row->own.ml_flags = METH_VARARGS | METH_KEYWORDS;
        row->own.ml_meth = (PyCFunction)(uintptr_t)row->init->d_wrapped;
        row->def = &row->own;
    } else {
        row->trouble = "unknown shape: not a builtin function or method";
    }
    Py_XDECREF(function);
    Py_DECREF(holder);
}

/* Find row `i` in its module, and get it ready to be swapped. */
static void prepare(int i, PyObject *module) {
    struct itr_row *row = &rows[i];
    find(row, module);
    if (row->def == NULL) {
        return;
    }
    row->convention =
        row->def->ml_flags & (METH_VARARGS | METH_KEYWORDS | METH_FASTCALL | METH_METHOD | METH_NOARGS | METH_O);
    any_function thunk = thunk_for(i, row->convention);
    bool twin = false; /* another row has swapped this very definition (an alias) */
    for (int j = 0; j < i; j++) {
        twin = twin || rows[j].def == row->def;
    }
    if (thunk == NULL || twin) {
        row->trouble = twin ? "absent" : "unknown shape: an unexpected calling convention";
        row->def = NULL;
        return;
    }
    row->original = row->def->ml_meth;
    if (row->kind == ITR_KIND_ENTER && row->acquire->def == NULL) { /* its row comes before */
        row->trouble = "unknown shape: no acquire beside it";
        row->def = NULL;
    }
}

static void swap(int i) {
    struct itr_row *row = &rows[i];
    if (row->def == NULL) {
        return;
    }
    if (row->init != NULL) { /* Python subclasses come here by super().__init__() */
        row->init->d_wrapped = (void *)(uintptr_t)thunks[i].init;
    } else {
        row->def->ml_meth = (PyCFunction)thunk_for(i, row->convention);
    }
}

/* The module (new reference), if the program has it or is getting it. Nothing is imported for the sake of its calls: an
 * import can be seen (libffi, which _ctypes loads, keeps a descriptor open), and takes time. What comes later is
 * swapped by itr_exact_loaded(). */
static PyObject *imported(const char *name) {
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    if (PyDict_GetItemString(modules, name) == NULL) {
        return NULL;
    }
    PyObject *module = PyImport_ImportModule(name); /* another thread may be about to import it: waits for that */
    if (module == NULL) {
        PyErr_Clear();
    }
    return module;
}

int itr_exact_install(void) {
    if (installed) {
        PyErr_SetString(PyExc_RuntimeError, "the exact calls are swapped already");
        return -1;
    }
    for (int i = 0; i < N_ROWS; i++) {
        rows[i].acquire = rows[i].kind == ITR_KIND_LOCK ? &rows[i] : NULL;
    }
    rows[ROW_lock_enter].acquire = &rows[ROW_lock_acquire];
    rows[ROW_rlock_enter].acquire = &rows[ROW_rlock_acquire];
    rows[ROW_semlock_enter].acquire = &rows[ROW_semlock_acquire];
    for (int i = 0; i < N_ROWS; i++) {
        PyObject *module = imported(rows[i].module);
        prepare(i, module);
        Py_XDECREF(module);
    }
    for (int i = 0; i < N_ROWS; i++) {
        swap(i);
    }
    installed = true;
    /* An import above may have waited, and other modules come meanwhile, behind their turn. */
    for (int i = 0; i < N_ROWS; i++) {
        PyObject *module =
            rows[i].def == NULL && rows[i].trouble != NULL && strcmp(rows[i].trouble, "not imported") == 0
                ? imported(rows[i].module)
                : NULL;
        if (module != NULL && rows[i].def == NULL) {
            prepare(i, module);
            swap(i);
        }
        Py_XDECREF(module);
    }
    return 0;
}

void itr_exact_loaded(PyObject *module) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    const char *name = installed && PyModule_Check(module) ? PyModule_GetName(module) : NULL;
    for (int i = 0; name != NULL && i < N_ROWS; i++) {
        if (rows[i].def == NULL && strcmp(rows[i].module, name) == 0) {
            prepare(i, module);
            swap(i);
        }
    }
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
}

void itr_exact_uninstall(void) {
    for (int i = 0; installed && i < N_ROWS; i++) {
        if (rows[i].def != NULL) {
            if (rows[i].init != NULL) {
                rows[i].init->d_wrapped = (void *)(uintptr_t)rows[i].original;
            } else {
                rows[i].def->ml_meth = rows[i].original;
            }
            rows[i].def = NULL; /* `original` stays: a thread may be inside the wrapper */
        }
        Py_CLEAR(rows[i].builtin);
    }
    installed = false;
}

bool itr_exact_installed(void) { return installed; }

PyObject *itr_exact_rows(void) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < N_ROWS; i++) {
        const struct itr_row *row = &rows[i];
        const char *type = row->type[0] == '=' ? row->type + 1 : row->type;
        const char *state = row->def != NULL ? "swapped" : row->trouble != NULL ? row->trouble : "not installed";
        if (row->kind == ITR_KIND_CLIENT && row->def == NULL) {
            continue; /* another version of the client, or none */
        }
        PyObject *pair =
            type[0] == '\0'
                ? Py_BuildValue("(Ns)", PyUnicode_FromFormat("%s.%s", row->module, row->method), state)
                : Py_BuildValue("(Ns)", PyUnicode_FromFormat("%s.%s.%s", row->module, type, row->method), state);
        if (pair == NULL || PyList_Append(list, pair) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

PyObject *itr_exact_builtins(void) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < N_ROWS; i++) {
        if (rows[i].def != NULL && rows[i].builtin != NULL && PyList_Append(list, rows[i].builtin) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}
