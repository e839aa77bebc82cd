/* What a TLS call needs beyond the common way; see tls_socket.c. */
#ifndef ITR_TLS_SOCKET_H
#define ITR_TLS_SOCKET_H

#include "core.h"

struct itr_tls_socket {
    PyObject *socket;
    bool flipped;
};

/* Where the time-out lies in a socket object. False: it was not found, and TLS reads on blocking sockets stay as they
 * are. */
bool itr_tls_probe(void);
void itr_tls_enter(struct itr_tls_socket *tls, PyObject *ssl_socket, struct itr_slot *slot);
void itr_tls_leave(struct itr_tls_socket *tls);

#endif
