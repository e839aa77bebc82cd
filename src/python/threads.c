/* Which Python thread is which slot. */
#include "core.h"

unsigned long itr_main_ident(void) {
    static unsigned long ident;
    if (ident == 0) {
        PyObject *threading = PyImport_ImportModule("threading");
        PyObject *thread = threading == NULL ? NULL : PyObject_CallMethod(threading, "main_thread", NULL);
        PyObject *number = thread == NULL ? NULL : PyObject_GetAttrString(thread, "ident");
        ident = number == NULL ? 0 : PyLong_AsUnsignedLong(number);
        PyErr_Clear();
        Py_XDECREF(number);
        Py_XDECREF(thread);
        Py_XDECREF(threading);
    }
    return ident;
}

/* Whatever the last owner of a slot left: it ended without telling Python. */
struct leavings {
    PyObject *queue, *redirect, *armed_type;
    itr_record *armed, *delivered[ITR_REMEMBERED];
};

static struct leavings clear_out(struct itr_thread *t) {
    struct leavings left = {t->queue, t->redirect, t->armed_type, t->armed, {NULL}};
    memcpy(left.delivered, t->delivered, sizeof left.delivered);
    memset(t->delivered, 0, sizeof t->delivered);
    t->queue = t->redirect = t->armed_type = NULL;
    t->armed = NULL;
    return left;
}

/* May run Python code. */
static void dispose(struct leavings *left) {
    for (Py_ssize_t i = 0; left->queue != NULL && i < PyList_GET_SIZE(left->queue); i++) {
        itr_record_resolve((itr_record *)PyList_GET_ITEM(left->queue, i), ITR_STATE_DISCARDED);
    }
    for (size_t i = 0; i < ITR_REMEMBERED; i++) {
        itr_delivered_drop(left->delivered[i]);
    }
    Py_XDECREF(left->queue);
    Py_XDECREF(left->redirect);
    Py_XDECREF(left->armed);
    Py_XDECREF(left->armed_type);
}

static struct itr_thread *keeper_of(struct itr_slot *slot) {
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_relaxed);
    return t != NULL && t->ref == itr_ref_of(slot) ? t : NULL;
}

/* The record keeper of a slot, made at its first use and reset at every new life. Steals `queue`, which has to be made
 * before anything is looked at: that may run the garbage collector, which may give up the GIL. Nothing does from then
 * until the keeper is in its place, so that nobody else makes one, too. */
static struct itr_thread *keeper(struct itr_slot *slot, unsigned long ident, PyThreadState *tstate, PyObject *queue) {
    static struct itr_thread **all; /* by slot index, grown under the GIL; entries live for ever */
    static uint32_t room;
    if (slot->index >= room) {
        uint32_t wanted = room == 0 ? 64 : room;
        while (wanted <= slot->index) {
            wanted *= 2;
        }
        struct itr_thread **grown = PyMem_RawRealloc(all, wanted * sizeof *grown);
        if (grown == NULL) {
            Py_DECREF(queue);
            PyErr_NoMemory();
            return NULL;
        }
        memset(grown + room, 0, (wanted - room) * sizeof *grown);
        all = grown;
        room = wanted;
    }
    struct itr_thread *t = all[slot->index];
    if (t == NULL) {
        t = PyMem_RawCalloc(1, sizeof *t);
        if (t == NULL) {
            Py_DECREF(queue);
            PyErr_NoMemory();
            return NULL;
        }
        t->slot = slot;
        all[slot->index] = t;
    }
    struct leavings left = clear_out(t);
    t->queue = queue;
    t->ident = ident;
    t->tstate = tstate;
    t->tstate_id = PyThreadState_GetID(tstate);
    t->ended = t->tells = false;
    t->last_exact = NULL;
    memset(t->user_masks, 0, sizeof t->user_masks);
    atomic_store_explicit(&t->redirected, 0, memory_order_relaxed);
    atomic_store_explicit(&t->asked, 0, memory_order_relaxed);
    atomic_store_explicit(&t->calls_since_ns, 0, memory_order_relaxed);
    t->noted_frame = NULL;
    t->declined_frame = NULL;
    t->ref = itr_ref_of(slot);
    slot->strict = false;
    /* release: the monitor, without the GIL, sees a whole keeper. */
    atomic_store_explicit(&slot->user, t, memory_order_release);
    dispose(&left);
    return t;
}

struct itr_thread *itr_thread_attached(void) {
    struct itr_slot *slot = itr_api->self();
    return slot == NULL ? NULL : atomic_load_explicit(&slot->user, memory_order_relaxed);
}

static bool attach_main(void) {
    static int wanted = -1;
    if (wanted < 0) {
        const char *value = secure_getenv("INTERRUPTIBLE_ATTACH_MAIN");
        wanted = value != NULL && *value != '\0' && strcmp(value, "0") != 0;
    }
    return wanted == 1;
}

static bool is_main_interpreters(PyThreadState *tstate) {
    return PyThreadState_GetInterpreter(tstate) == PyInterpreterState_Main();
}

bool itr_in_main_interpreter(void) { return is_main_interpreters(PyThreadState_Get()); }

struct itr_thread *itr_thread_current(void) {
    PyThreadState *tstate = PyThreadState_Get();
    if (!is_main_interpreters(tstate)) {
        return NULL; /* also a thread that is attached, and runs another interpreter for a while */
    }
    struct itr_thread *t = itr_thread_attached();
    if (t != NULL) {
        t->tstate = tstate; /* not always that of its last call: a thread of C's has one per call of Python */
        return t;
    }
    unsigned long ident = PyThread_get_thread_ident();
    if (ident == itr_main_ident() && !attach_main()) {
        return NULL;
    }
    /* Up to 3.10 nobody may have known the native thread ID of what was attached from outside. Whether that was this
     * thread, or a dead one with the same ident, is told by the thread state. */
    t = itr_thread_find(ident);
    if (t != NULL && t->tstate_id == PyThreadState_GetID(tstate)) {
        itr_api->claim_self(t->ref);
    }
    struct itr_slot *slot = itr_api->attach_self();
    if (slot == NULL) {
        return NULL; /* no memory: the thread goes on, uninterruptible */
    }
    PyObject *queue = keeper_of(slot) == NULL ? PyList_New(0) : NULL;
    t = keeper_of(slot);
    if (t != NULL) {
        t->tstate = tstate; /* attached from outside, now adopted: what was recorded stays */
        Py_XDECREF(queue);
    } else if (queue != NULL) {
        t = keeper(slot, ident, tstate, queue);
    }
    if (t == NULL) {
        PyErr_Clear();
    }
    return t;
}

PyThreadState *itr_tstate_of(unsigned long ident) {
    PyThreadState *tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    while (tstate != NULL && tstate->thread_id != ident) {
        tstate = PyThreadState_Next(tstate);
    }
    /* It has a thread state while it works, and may have been given the ident of one that ended. */
    return tstate != NULL && itr_async_is_injector(ident) ? NULL : tstate;
}

struct itr_thread *itr_thread_find(unsigned long ident) {
    struct itr_slot *slot = itr_api->lock_thread((pthread_t)ident);
    if (slot == NULL) {
        return NULL;
    }
    struct itr_thread *t = atomic_load_explicit(&slot->user, memory_order_relaxed);
    itr_api->unlock(slot);
    return t;
}

static struct itr_thread *no_such_thread(unsigned long ident) {
    PyErr_Format(PyExc_LookupError, "no Python thread has the ident %lu: it has ended, or never was one", ident);
    return NULL;
}

/* Attaches it, with this queue (stolen). */
static struct itr_thread *attach(unsigned long ident, long native_id, PyObject *queue) {
    PyThreadState *tstate = itr_tstate_of(ident);
    if (tstate == NULL) {
        Py_DECREF(queue);
        return no_such_thread(ident);
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (native_id == 0) {
        native_id = (long)tstate->native_thread_id;
    }
#endif
    itr_ref ref = itr_api->attach_other((pthread_t)ident, (pid_t)native_id);
    struct itr_slot *slot = ref == 0 ? NULL : itr_api->lock_ref(ref);
    if (slot == NULL) {
        Py_DECREF(queue);
        PyErr_NoMemory();
        return NULL;
    }
    itr_api->unlock(slot);
    struct itr_thread *t = keeper(slot, ident, tstate, queue);
    return t != NULL && t->ref != ref ? no_such_thread(ident) : t; /* what was disposed of has taken its time */
}

/* The thread that forked is another one for the system in the child, and not everybody is told. */
static unsigned long survivor;

void itr_threads_after_fork(void) { survivor = PyThread_get_thread_ident(); }

/* It may have been given the ident of the one that is meant, since somebody looked. */
static struct itr_thread *check_number(struct itr_thread *t, long native_id) {
    bool other = native_id != 0 && t->slot->tid != 0 && t->slot->tid != native_id && t->ident != survivor;
    return other ? no_such_thread(t->ident) : t;
}

struct itr_thread *itr_thread_of(unsigned long ident, long native_id) {
    struct itr_thread *t = itr_thread_find(ident);
    if (t != NULL) {
        return check_number(t, native_id);
    }
    PyObject *queue = PyList_New(0);
    if (queue == NULL) {
        return NULL;
    }
    t = itr_thread_find(ident);
    if (t != NULL) { /* somebody else was first */
        Py_DECREF(queue);
        return check_number(t, native_id);
    }
    return attach(ident, native_id, queue);
}
