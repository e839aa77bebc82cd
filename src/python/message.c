/* Messages of multiprocessing: a Connection sends and receives each in parts, its length first. When one has begun, who
 * does not read or write the rest of it leaves the stream out of step: the next message begins in the middle of it. */
#include "frames.h"

/* The function `name` of that module, in this frame? */
static bool is_connections(PyFrameObject *frame, PyCodeObject *code, const char *name) {
    return named(code, name) && itr_is_in_module(frame, "multiprocessing.connection") && itr_is_protected(frame);
}

static bool has_local(PyFrameObject *frame, PyCodeObject *code, const char *name) {
    PyObject *value = itr_local(frame, code, name);
    bool found = value != NULL;
    Py_XDECREF(value);
    return found;
}

/* Is it the same object in both frames? */
static bool is_callers(PyFrameObject *frame, PyCodeObject *code, PyFrameObject *back, PyCodeObject *back_code,
                       const char *name) {
    PyObject *mine = itr_local(frame, code, "buf");
    PyObject *callers = itr_local(back, back_code, name);
    bool same = mine != NULL && mine == callers;
    Py_XDECREF(mine);
    Py_XDECREF(callers);
    return same;
}

/* _recv(size, read) of _recv_bytes(): a part of this part is there, or the length is. */
static bool rest_to_receive(PyFrameObject *frame, PyCodeObject *code, PyFrameObject *back, PyCodeObject *back_code) {
    PyObject *size = itr_local(frame, code, "size");
    PyObject *remaining = itr_local(frame, code, "remaining");
    bool begun = size != NULL && remaining != NULL && PyObject_RichCompareBool(size, remaining, Py_NE) == 1;
    Py_XDECREF(size);
    Py_XDECREF(remaining);
    return begun || (is_connections(back, back_code, "_recv_bytes") && has_local(back, back_code, "size"));
}

/* _send(buf, write) of _send_bytes(): a part of this part is written, or the length is. */
static bool rest_to_send(PyFrameObject *frame, PyCodeObject *code, PyFrameObject *back, PyCodeObject *back_code) {
    return has_local(frame, code, "n") ||
           (is_connections(back, back_code, "_send_bytes") &&
            (is_callers(frame, code, back, back_code, "buf") ||
             (has_local(back, back_code, "pre_header") && is_callers(frame, code, back, back_code, "header"))));
}

/* Others write to it too, whatever becomes of this one's end. */
static bool is_queues(void) {
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    bool found = false;
    while (frame != NULL && !found && itr_is_protected(frame)) {
        found = itr_is_in_module(frame, "multiprocessing.queues");
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return found;
}

enum itr_message itr_message_here(PyObject **connection) {
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame == NULL) {
        return ITR_MESSAGE_NONE;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    bool receives = is_connections(frame, code, "_recv");
    bool sends = !receives && is_connections(frame, code, "_send");
    PyFrameObject *back = receives || sends ? PyFrame_GetBack(frame) : NULL;
    enum itr_message message = ITR_MESSAGE_NONE;
    if (back != NULL) {
        PyCodeObject *back_code = PyFrame_GetCode(back);
        if (receives && rest_to_receive(frame, code, back, back_code)) {
            message = ITR_MESSAGE_REST;
        } else if (sends && rest_to_send(frame, code, back, back_code)) {
            message = is_queues() ? ITR_MESSAGE_REST : ITR_MESSAGE_UNREAD;
        }
        Py_DECREF(back_code);
        Py_DECREF(back);
    }
    if (connection != NULL) {
        *connection = message == ITR_MESSAGE_UNREAD ? itr_local(frame, code, "self") : NULL;
    }
    PyErr_Clear();
    Py_DECREF(code);
    Py_DECREF(frame);
    return message;
}
