/* Every blocking call on sockets: parked for real, interrupted, and used again. */
#include "rows.h"

#include "libc_types.h"
#include "park.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* ---- receiving --------------------------------------------------------------------------------------------------- */

static long do_recv(struct fixture *f) { return recv(f->a[0], &f->byte, 1, 0); }
static long do_recv_chk(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, void *, size_t, size_t, int))(f->a[0], &f->byte, 1, 1, 0);
}
static long do_recvfrom(struct fixture *f) { return recvfrom(f->a[0], &f->byte, 1, 0, NULL, NULL); }
static long do_recvfrom_chk(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *))(f->a[0], &f->byte, 1,
                                                                                                 1, 0, NULL, NULL);
}
static long do_recvmsg(struct fixture *f) {
    struct iovec iov = {&f->byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    return recvmsg(f->a[0], &msg, 0);
}
static long do_recvmmsg(struct fixture *f) {
    struct iovec iov = {&f->byte, 1};
    struct mmsghdr msg = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    return recvmmsg(f->a[0], &msg, 1, 0, NULL);
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static void full_socket(struct fixture *f) {
    make_socketpair(f);
    fill(f);
}
static long do_send(struct fixture *f) { return send(f->a[1], "y", 1, 0); }
static long do_sendto(struct fixture *f) { return sendto(f->a[1], "y", 1, 0, NULL, 0); }
static long do_sendmsg(struct fixture *f) {
    char byte = 'y';
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    return sendmsg(f->a[1], &msg, 0);
}
static long do_sendmmsg(struct fixture *f) {
    char byte = 'y';
    struct iovec iov = {&byte, 1};
    struct mmsghdr msg = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    return sendmmsg(f->a[1], &msg, 1, 0);
}

/* ---- connecting -------------------------------------------------------------------------------------------------- */

static struct sockaddr_un address(const struct fixture *f) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", f->path);
    return addr;
}

static int client(const struct fixture *f) {
    struct sockaddr_un addr = address(f);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static void listening(struct fixture *f, int backlog) {
    scratch_path(f->path, sizeof f->path);
    struct sockaddr_un addr = address(f);
    f->a[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->a[0], (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(f->a[0], backlog), 0);
}

static void listening_idle(struct fixture *f) { listening(f, 8); }
static long do_accept(struct fixture *f) { return accept(f->a[0], NULL, NULL); }
static long do_accept4(struct fixture *f) { return accept4(f->a[0], NULL, NULL, SOCK_CLOEXEC); }
static void come(struct fixture *f) { close(client(f)); }
static bool accepted(struct fixture *f) { return f->result >= 0 && close((int)f->result) == 0; }

/* A backlog that is full: the next connect waits for an accept. */
static void listening_full(struct fixture *f) {
    listening(f, 0);
    f->b[0] = client(f);
    f->a[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}
static long do_connect(struct fixture *f) {
    struct sockaddr_un addr = address(f);
    return connect(f->a[1], (struct sockaddr *)&addr, sizeof addr);
}
static void accept_one(struct fixture *f) { close(accept(f->a[0], NULL, NULL)); }
static bool connected(struct fixture *f) {
    struct sockaddr_un peer;
    socklen_t len = sizeof peer;
    bool right = f->result == 0 && getpeername(f->a[1], (struct sockaddr *)&peer, &len) == 0;
    close(f->a[1]);
    f->a[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return right;
}

static const struct row rows[] = {
    {"recv", make_socketpair, do_recv, put_byte, got_byte, 0, NULL, NULL},
    {"__recv_chk", make_socketpair, do_recv_chk, put_byte, got_byte, 0, NULL, NULL},
    {"recvfrom", make_socketpair, do_recvfrom, put_byte, got_byte, 0, NULL, NULL},
    {"__recvfrom_chk", make_socketpair, do_recvfrom_chk, put_byte, got_byte, 0, NULL, NULL},
    {"recvmsg", make_socketpair, do_recvmsg, put_byte, got_byte, 0, NULL, NULL},
    {"recvmmsg", make_socketpair, do_recvmmsg, put_byte, got_byte, 0, NULL, NULL},
    {"send", full_socket, do_send, drain, sent_byte, 0, NULL, NULL},
    {"sendto", full_socket, do_sendto, drain, sent_byte, 0, NULL, NULL},
    {"sendmsg", full_socket, do_sendmsg, drain, sent_byte, 0, NULL, NULL},
    {"sendmmsg", full_socket, do_sendmmsg, drain, sent_byte, 0, NULL, NULL},
    {"accept", listening_idle, do_accept, come, accepted, 0, NULL, NULL},
    {"accept4", listening_idle, do_accept4, come, accepted, 0, NULL, NULL},
    {"connect", listening_full, do_connect, accept_one, connected, 0, NULL, NULL},
};

#define RUN(way) run_rows(rows, COUNT(rows), way)
static void broken(void **state) { (void)state, RUN(BREAK); }
static void masked(void **state) { (void)state, RUN(MASKED); }
static void plain(void **state) { (void)state, RUN(PLAIN); }
static void attached_plain(void **state) { (void)state, RUN(ATTACHED_PLAIN); }
static void restarted(void **state) { (void)state, RUN(RESTARTED); }
static void covered(void **state) {
    (void)state;
    check_covered(rows, COUNT(rows), ITR_RECV | ITR_SEND | ITR_ACCEPT | ITR_CONNECT);
}

/* ---- a TCP connection that is being set up ----------------------------------------------------------------------- */

struct tcp {
    int fd;
    struct sockaddr_in addr;
    int result, error;
};

static void tcp_connect(void *arg) {
    struct tcp *t = arg;
    t->result = connect(t->fd, (struct sockaddr *)&t->addr, sizeof t->addr);
    t->error = errno;
}
static void clear(void *arg) { *(int *)arg = itr_clear(); }

/* Broken, it goes on in the background: poll and SO_ERROR tell when it is done, as after an EINTR. */
static void tcp_connect_goes_on(void **state) {
    (void)state;
    struct worker w;
    struct tcp t = {.addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}};
    socklen_t len = sizeof t.addr;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&t.addr, sizeof t.addr), 0);
    assert_int_equal(listen(listener, 0), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&t.addr, &len), 0);
    int first = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(first, (struct sockaddr *)&t.addr, sizeof t.addr), 0);
    struct pollfd one = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&one, 1, LONG_MS),
                     1); /* it has been put in line, by another thread of the kernel's perhaps */
    t.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    worker_start(&w, true);
    worker_give(&w, tcp_connect, &t);
    await_parked(w.thread, "connect");
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    worker_wait(&w);
    assert_int_equal(t.result, -1);
    assert_int_equal(t.error, ECANCELED);
    int cleared = 0;
    worker_do(&w, clear, &cleared);
    assert_int_equal(cleared, 1);
    close(accept(listener, NULL, NULL)); /* room: the kernel sends the SYN again, after a second, two, four */
    one = (struct pollfd){.fd = t.fd, .events = POLLOUT};
    assert_int_equal(poll(&one, 1, LONG_MS), 1);
    int error = -1;
    len = sizeof error;
    assert_int_equal(getsockopt(t.fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
    assert_int_equal(error, 0);
    worker_stop(&w);
    close(t.fd);
    close(first);
    close(listener);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covered),
        cmocka_unit_test(broken),
        cmocka_unit_test(masked),
        cmocka_unit_test(plain),
        cmocka_unit_test(restarted),
        cmocka_unit_test(attached_plain),
        cmocka_unit_test(tcp_connect_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
