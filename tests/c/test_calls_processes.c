/* Waits for children, signals, and System V and POSIX queues: parked for real, interrupted, and used again. */
#include "rows.h"

#include "libc_types.h"
#include "park.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* ---- children ---------------------------------------------------------------------------------------------------- */

static pid_t make_child(bool ends) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* not to stay when a test fails */
    }
    while (child == 0 && !ends) {
        pause();
    }
    if (child == 0) {
        _exit(7);
    }
    return child;
}
static void child_that_stays(struct fixture *f) { f->child = make_child(false); }
static void end_child(struct fixture *f) {
    siginfo_t info;
    if (f->child > 0) {
        kill(f->child, SIGKILL);
        return;
    }
    f->child = make_child(true);
    assert_int_equal(waitid(P_PID, (id_t)f->child, &info, WEXITED | WNOWAIT), 0);
}
static bool reaped(struct fixture *f) {
    bool right = f->result == f->child && waitpid(f->child, NULL, WNOHANG) == -1 && errno == ECHILD;
    f->child = 0;
    return right;
}
static long do_wait(struct fixture *f) {
    (void)f;
    return wait(NULL);
}
static long do_waitpid(struct fixture *f) { return waitpid(f->child, NULL, 0); }
static long do_wait3(struct fixture *f) {
    (void)f;
    return wait3(NULL, 0, NULL);
}
static long do_wait4(struct fixture *f) { return wait4(f->child, NULL, 0, NULL); }
static long do_waitid(struct fixture *f) {
    siginfo_t info = {.si_pid = 0};
    int result = waitid(P_PID, (id_t)f->child, &info, WEXITED);
    return result == 0 ? info.si_pid : result;
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

/* The workers inherit a mask that blocks SIGUSR1. */
static void none(struct fixture *f) { f->byte = 0; }
static void send_signal(struct fixture *f) { pthread_kill(f->thread, SIGUSR1); }
static bool got_signal(struct fixture *f) { return f->result == SIGUSR1; }
static sigset_t only(int sig) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, sig);
    return set;
}
static long do_sigwait(struct fixture *f) {
    sigset_t set = only(SIGUSR1);
    int sig = 0;
    (void)f;
    int error = sigwait(&set, &sig);
    return error == 0 ? sig : error;
}
static long do_sigwaitinfo(struct fixture *f) {
    sigset_t set = only(SIGUSR1);
    siginfo_t info;
    (void)f;
    return sigwaitinfo(&set, &info);
}
static long do_sigtimedwait(struct fixture *f) {
    sigset_t set = only(SIGUSR1);
    struct timespec t = {LONG_MS / 1000, 0};
    (void)f;
    return sigtimedwait(&set, NULL, &t);
}
static long do_sigsuspend(struct fixture *f) {
    sigset_t set;
    (void)f;
    sigfillset(&set);
    sigdelset(&set, SIGUSR1);
    sigdelset(&set, SIGUSR2);
    return sigsuspend(&set);
}
static void send_plain_signal(struct fixture *f) { pthread_kill(f->thread, SIGUSR2); }
static long do_pause(struct fixture *f) {
    (void)f;
    return pause();
}

/* ---- queues and semaphores --------------------------------------------------------------------------------------- */

struct message {
    long type;
    char text[8];
};
static void remove_msg(struct fixture *f) { msgctl(f->id, IPC_RMID, NULL); }
static void make_msg(struct fixture *f) {
    f->id = msgget(IPC_PRIVATE, 0600);
    assert_true(f->id >= 0);
    f->undo = remove_msg;
}
static long do_msgrcv(struct fixture *f) {
    struct message m;
    long result = msgrcv(f->id, &m, sizeof m.text, 0, 0);
    f->byte = m.text[0];
    return result;
}
static void put_msg(struct fixture *f) {
    struct message m = {1, "x"};
    assert_int_equal(msgsnd(f->id, &m, 1, 0), 0);
}

/* Full with one byte. */
static void make_full_msg(struct fixture *f) {
    struct msqid_ds limits;
    make_msg(f);
    assert_int_equal(msgctl(f->id, IPC_STAT, &limits), 0);
    limits.msg_qbytes = 1;
    assert_int_equal(msgctl(f->id, IPC_SET, &limits), 0);
    put_msg(f);
}
static long do_msgsnd(struct fixture *f) {
    struct message m = {1, "x"};
    return msgsnd(f->id, &m, 1, 0);
}
static void take_msg(struct fixture *f) {
    struct message m;
    assert_int_equal(msgrcv(f->id, &m, sizeof m.text, 0, 0), 1);
}
static bool has_msg(struct fixture *f) {
    struct msqid_ds now;
    return f->result == 0 && msgctl(f->id, IPC_STAT, &now) == 0 && now.msg_qnum == 1;
}

static void make_mq(struct fixture *f) { f->a[0] = scratch_queue(4, 8); }
static long do_mq_receive(struct fixture *f) {
    char text[8];
    long result = mq_receive(f->a[0], text, sizeof text, NULL);
    f->byte = text[0];
    return result;
}
static long do_mq_timedreceive(struct fixture *f) {
    char text[8];
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += LONG_MS / 1000;
    long result = mq_timedreceive(f->a[0], text, sizeof text, NULL, &t);
    f->byte = text[0];
    return result;
}
static void put_mq(struct fixture *f) { assert_int_equal(mq_send(f->a[0], "x", 1, 0), 0); }

/* Full with as many messages as make_mq() lets in. */
static void make_full_mq(struct fixture *f) {
    make_mq(f);
    for (int i = 0; i < 4; i++) {
        put_mq(f);
    }
}
static long do_mq_send(struct fixture *f) { return mq_send(f->a[0], "x", 1, 0); }
static long do_mq_timedsend(struct fixture *f) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += LONG_MS / 1000;
    return mq_timedsend(f->a[0], "x", 1, 0, &t);
}
static void take_mq(struct fixture *f) {
    char text[8];
    assert_int_equal(mq_receive(f->a[0], text, sizeof text, NULL), 1);
}
static bool has_mq(struct fixture *f) {
    struct mq_attr now;
    return f->result == 0 && mq_getattr(f->a[0], &now) == 0 && now.mq_curmsgs == 4;
}

static void remove_semaphore(struct fixture *f) { semctl(f->id, 0, IPC_RMID); }
static void make_semaphore(struct fixture *f) {
    f->id = semget(IPC_PRIVATE, 1, 0600);
    assert_true(f->id >= 0);
    f->undo = remove_semaphore;
}
static long do_semop(struct fixture *f) {
    struct sembuf take = {0, -1, 0};
    return semop(f->id, &take, 1);
}
static long do_semtimedop(struct fixture *f) {
    struct sembuf take = {0, -1, 0};
    struct timespec t = {LONG_MS / 1000, 0};
    return semtimedop(f->id, &take, 1, &t);
}
static void give_token(struct fixture *f) {
    struct sembuf give = {0, 1, 0};
    assert_int_equal(semop(f->id, &give, 1), 0);
}
static bool has_token(struct fixture *f) { return f->result == 0 && semctl(f->id, 0, GETVAL) == 0; }

#define CHILD(name, call)                                                                                              \
    { name, child_that_stays, call, end_child, reaped, 0, NULL, NULL }
#define SIGNAL(name, call, flags)                                                                                      \
    { name, none, call, send_signal, got_signal, flags, NULL, NULL }

static const struct row rows[] = {
    CHILD("wait", do_wait),
    CHILD("waitpid", do_waitpid),
    CHILD("wait3", do_wait3),
    CHILD("wait4", do_wait4),
    CHILD("waitid", do_waitid),
    SIGNAL("sigwait", do_sigwait, GIVES_ERROR | IGNORES_EINTR),
    SIGNAL("sigwaitinfo", do_sigwaitinfo, 0),
    SIGNAL("sigtimedwait", do_sigtimedwait, 0),
    SIGNAL("sigsuspend", do_sigsuspend, ENDS_BY_EINTR),
    {"pause", none, do_pause, send_plain_signal, NULL, ENDS_BY_EINTR | NOT_BEFORE, NULL, NULL},
    {"msgrcv", make_msg, do_msgrcv, put_msg, got_byte, 0, NULL, NULL},
    {"mq_receive", make_mq, do_mq_receive, put_mq, got_byte, 0, NULL, NULL},
    {"mq_timedreceive", make_mq, do_mq_timedreceive, put_mq, got_byte, 0, NULL, NULL},
    {"msgsnd", make_full_msg, do_msgsnd, take_msg, has_msg, 0, NULL, NULL},
    {"mq_send", make_full_mq, do_mq_send, take_mq, has_mq, 0, NULL, NULL},
    {"mq_timedsend", make_full_mq, do_mq_timedsend, take_mq, has_mq, 0, NULL, NULL},
    {"semop", make_semaphore, do_semop, give_token, has_token, 0, NULL, NULL},
    {"semtimedop", make_semaphore, do_semtimedop, give_token, has_token, 0, NULL, NULL},
};

static int only_signals(void **state) {
    (void)state;
    sigset_t set = only(SIGUSR1);
    count_signal(SIGUSR1, 0);
    return pthread_sigmask(SIG_BLOCK, &set, NULL);
}

#define RUN(way) run_rows(rows, COUNT(rows), way)
static void broken(void **state) { (void)state, RUN(BREAK); }
static void masked(void **state) { (void)state, RUN(MASKED); }
static void plain(void **state) { (void)state, RUN(PLAIN); }
static void attached_plain(void **state) { (void)state, RUN(ATTACHED_PLAIN); }
static void restarted(void **state) { (void)state, RUN(RESTARTED); }
static void covered(void **state) {
    (void)state;
    check_covered(rows, COUNT(rows), ITR_WAIT | ITR_SIGWAIT | ITR_IPC);
}

/* ---- what cannot wait is never broken: a thread that is to stop must be able to let go of what it holds ---------- */

static void cannot_wait(void **state) {
    (void)state;
    struct sembuf give = {0, 1, 0};
    struct sembuf take_now = {0, -1, IPC_NOWAIT};
    struct message m;
    siginfo_t info = {.si_pid = 1};
    sigset_t set = only(SIGUSR1);
    char byte;
    int id = semget(IPC_PRIVATE, 1, 0600);
    int queue = msgget(IPC_PRIVATE, 0600);
    int file = memfd_create("itr-test", 0);
    int ends[2];
    pid_t child = make_child(false);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(itr_attach(), ITR_OK);
    assert_int_equal(flock(file, LOCK_EX), 0);
    assert_int_equal(lockf(file, F_LOCK, 1), 0);
    assert_int_equal(itr_interrupt(pthread_self()), ITR_OK);
    assert_int_equal(flock(file, LOCK_UN), 0);
    assert_int_equal(flock(file, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(lockf(file, F_ULOCK, 1), 0);
    assert_int_equal(lockf(file, F_TLOCK, 1), 0);
    assert_int_equal(semop(id, &give, 1), 0);
    assert_int_equal(semop(id, &take_now, 1), 0);
    assert_int_equal(semtimedop(id, &take_now, 1, NULL), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
    assert_int_equal(wait3(NULL, WNOHANG, NULL), 0);
    assert_int_equal(wait4(child, NULL, WNOHANG, NULL), 0);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG), 0);
    assert_int_equal(msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT), -1);
    assert_int_equal(errno, ENOMSG);
    assert_int_equal(recv(ends[0], &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(send(ends[0], "x", 1, MSG_DONTWAIT), 1);
    assert_int_equal(sigtimedwait(&set, &info, &(struct timespec){0, 0}), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(itr_clear(), 1);
    itr_detach();
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    semctl(id, 0, IPC_RMID);
    msgctl(queue, IPC_RMID, NULL);
    close(file);
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covered),     cmocka_unit_test(broken),         cmocka_unit_test(masked),
        cmocka_unit_test(plain),       cmocka_unit_test(attached_plain), cmocka_unit_test(restarted),
        cmocka_unit_test(cannot_wait),
    };
    return cmocka_run_group_tests(tests, only_signals, NULL);
}
