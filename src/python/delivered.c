/* The last few interrupts that were delivered in a thread: what surfaces where Python cannot raise is recorded again.
 *
 * More than one may be on its way at a time: while an exception unwinds a finalizer, another finalizer may wait, be
 * interrupted, and fail. What is forgotten lets go of its instance, so that a handle that is kept for long keeps no
 * traceback, with its frames and their variables, alive. */
#include "core.h"

void itr_delivered_drop(itr_record *record) {
    if (record != NULL) {
        Py_CLEAR(record->instance);
        Py_DECREF(record);
    }
}

itr_record *itr_delivered_add(struct itr_thread *t, itr_record *record) {
    itr_record *oldest = t->delivered[ITR_REMEMBERED - 1];
    memmove(&t->delivered[1], &t->delivered[0], (ITR_REMEMBERED - 1) * sizeof t->delivered[0]);
    t->delivered[0] = record;
    return oldest;
}

itr_record *itr_delivered_take(struct itr_thread *t, const PyObject *instance) {
    for (size_t i = 0; i < ITR_REMEMBERED; i++) {
        itr_record *record = t->delivered[i];
        if (record != NULL && (instance == NULL || record->instance == instance)) {
            memmove(&t->delivered[i], &t->delivered[i + 1], (ITR_REMEMBERED - 1 - i) * sizeof t->delivered[0]);
            t->delivered[ITR_REMEMBERED - 1] = NULL;
            return record;
        }
    }
    return NULL;
}

void itr_delivered_forget(struct itr_thread *t) {
    itr_record *record;
    while ((record = itr_delivered_take(t, NULL)) != NULL) {
        itr_delivered_drop(record);
    }
}
