/* Exact calls: where they must not raise, and where they are waited out. */
#include "frames.h"

static PyObject *threading_globals;
static PyObject *code_bootstrap;

static PyObject *code_of_method(PyObject *module, const char *type, const char *name) {
    PyObject *cls = PyObject_GetAttrString(module, type);
    PyObject *function = cls == NULL ? NULL : PyObject_GetAttrString(cls, name);
    PyObject *code = function == NULL ? NULL : PyObject_GetAttrString(function, "__code__");
    Py_XDECREF(cls);
    Py_XDECREF(function);
    return code;
}

int itr_may_raise_setup(void) {
    PyObject *threading = PyImport_ImportModule("threading");
    if (threading == NULL) {
        return -1;
    }
    threading_globals = PyModule_GetDict(threading);
    Py_INCREF(threading_globals);
    code_bootstrap = code_of_method(threading, "Thread", "_bootstrap_inner");
    Py_DECREF(threading);
    return code_bootstrap == NULL ? -1 : 0;
}

/* Which calls of a function that must not be cut short have to finish: those that it makes itself (a `with` of a
 * library's object counts as that), those that are made by what it calls, or both. */
enum extent { ITSELF = 1, CALLEES = 2, WHOLE = ITSELF | CALLEES };

struct rule {
    const char *function, *module; /* NULL: any that is protected */
    enum extent extent;
    int arguments; /* 0: any number */
};

/* Calls in the library's own code that it cannot do without, by the function that makes them:
 * - _acquire_restore: Condition; the enclosing `with` releases the lock whatever happens.
 * - _execute_child: Popen() asks its new child whether it could exec; nobody would know of the child.
 * - what gives back or tells others: a permit that Semaphore.__exit__ did not give back is lost for ever, a queue whose
 *   task_done() was broken can never be joined. Their mutexes are held for a moment only.
 * - start: the thread or child runs, and whoever started it would not know.
 * - submit: the task is in the queue, and will be done. What takes it out of there, and tells what became of it.
 * - notify: it waits for those whom it has told, or counts them wrong.
 * - put: it has a permit of the queue, which the reader of the item gives back. (SimpleQueue's, with fewer arguments,
 * has nothing yet.) */
static const struct rule rules[] = {
    {"_acquire_restore", NULL, ITSELF, 0},
    {"_execute_child", NULL, ITSELF, 0},
    {"release", NULL, ITSELF, 0},
    {"task_done", NULL, ITSELF, 0},
    {"set", NULL, ITSELF, 0},
    {"start", "threading", WHOLE, 0},
    {"start", "multiprocessing.process", WHOLE, 0},
    {"submit", "concurrent.futures.thread", CALLEES, 0},
    {"submit", "concurrent.futures.process", CALLEES, 0},
    {"set_running_or_notify_cancel", "concurrent.futures._base", WHOLE, 0},
    {"set_result", NULL, WHOLE, 0},
    {"set_exception", NULL, WHOLE, 0},
    {"put", "multiprocessing.queues", CALLEES, 4},
    {"notify", "multiprocessing.synchronize", ITSELF, 0},
};

bool itr_is_in_module(PyFrameObject *frame, const char *module) {
    PyObject *globals = globals_of(frame);
    PyObject *name = PyDict_GetItemString(globals, "__name__");
    bool same = name != NULL && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, module) == 0;
    Py_DECREF(globals);
    return same;
}

/* For a frame of a protected module, and how the call was made from there. */
static bool has_rule(PyFrameObject *frame, PyCodeObject *code, unsigned extent) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const struct rule *rule = &rules[i];
        if (((unsigned)rule->extent & extent) != 0 && named(code, rule->function) &&
            (rule->arguments == 0 || rule->arguments == code->co_argcount) &&
            (rule->module == NULL || itr_is_in_module(frame, rule->module))) {
            return true;
        }
    }
    return false;
}

/* Behind it others' work begins: a child's, a future's callbacks. */
static bool is_border(PyCodeObject *code) { return named(code, "_bootstrap") || named(code, "_invoke_callbacks"); }

bool itr_must_finish_here(void) {
    /* In a tracer's callback: what it raises switches the tracer off, and drops what the traced code has just got. */
    if (PyThreadState_Get()->tracing != 0 || itr_message_here(NULL) == ITR_MESSAGE_REST) {
        return true;
    }
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    unsigned extent = ITSELF;
    bool found = false;
    bool inside = true;
    while (frame != NULL && inside) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        bool own = itr_is_protected(frame);
        inside = (own || itr_is_library(code)) && !is_border(code); /* start() may import hmac */
        found = own && inside && has_rule(frame, code, extent);
        extent = named(code, "__enter__") ? extent | CALLEES : CALLEES;
        inside = inside && !found;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return found;
}

bool itr_may_raise_here(bool broken) {
    if (itr_must_finish_here() || (!broken && itr_message_here(NULL) == ITR_MESSAGE_UNREAD)) {
        return false;
    }
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    PyFrameObject *above = NULL; /* the frame that `frame` called */
    bool ok = broken || !itr_is_closing_generator(PyThreadState_Get());
    while (frame != NULL && ok) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        if (itr_is_unraisable_hook(frame, code)) {
            ok = false; /* what this raises is printed, and nobody is told of it */
        } else if (itr_is_finalizer(frame, code)) {
            /* Nobody can catch it there, and Popen's loses sight of a child. But a finalizer that waits is woken, and
             * the interrupt is recorded again. */
            ok = broken;
        } else if ((PyObject *)code == code_bootstrap) {
            /* threading's own bookkeeping around run(): nobody could catch it, and the thread would not be accounted
             * for. */
            if (above == NULL) {
                ok = false;
            } else {
                PyObject *globals = globals_of(above);
                PyCodeObject *above_code = PyFrame_GetCode(above);
                ok = globals != threading_globals || named(above_code, "run");
                Py_DECREF(above_code);
                Py_DECREF(globals);
            }
        }
        Py_DECREF(code);
        Py_XDECREF(above);
        above = frame;
        frame = PyFrame_GetBack(frame);
    }
    Py_XDECREF(above);
    Py_XDECREF(frame);
    return ok;
}
