/* Masks, and asyncio's redirection: what keeps an interrupt from the thread for a while. */
#include "core.h"
#include "exact.h"

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
            PyObject *redirect = Py_NewRef(t->redirect);
            PyObject *told = PyObject_CallObject(redirect, NULL);
            Py_DECREF(redirect);
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

PyMethodDef itr_mask_methods[] = {
    ITR_METHOD(mask, METH_O, "Push a mask level."),
    ITR_METHOD(unmask, METH_O, "Pop it; the outermost pop delivers."),
    ITR_METHOD(masked, METH_NOARGS, "The effective level."),
    ITR_METHOD(uninterruptible, METH_O, "Never inject while this code runs."),
    ITR_METHOD(set_redirect, METH_O, "Call this instead of raising in the current thread."),
    ITR_METHOD(take, METH_NOARGS, "Consume the next pending interrupt; its exception or None."),
    {NULL, NULL, 0, NULL},
};
