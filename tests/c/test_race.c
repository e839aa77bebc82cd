/* Interrupts that race with the completion of the call: no effect is lost, none happens twice, and each interrupt is
 * seen exactly once. A producer and a consumer, both attached and both interrupted at random, pass numbers through a
 * channel; the consumer must get each of them, in order. */
#include "rows.h"

#include "api.h"
#include "libc_types.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/un.h>

static int ends[2];
static int id;
static mqd_t mq;
static sem_t full, empty;
static _Atomic uint32_t cell;

typedef uint32_t number;

/* put and get: true when done, false when broken (errno says why) and nothing was done. */
static bool whole(ssize_t n) { return n == (ssize_t)sizeof(number); }

static bool write_put(number n) { return whole(write(ends[1], &n, sizeof n)); }
static bool read_get(number *n) { return whole(read(ends[0], n, sizeof *n)); }
static bool send_put(number n) { return whole(send(ends[1], &n, sizeof n, 0)); }
static bool recv_get(number *n) { return whole(recv(ends[0], n, sizeof *n, 0)); }
static bool poll_get(number *n) {
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    int ready = poll(&one, 1, -1);
    return ready == 1 && whole(read(ends[0], n, sizeof *n));
}
static bool select_get(number *n) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    return select(ends[0] + 1, &set, NULL, NULL, NULL) == 1 && whole(recv(ends[0], n, sizeof *n, 0));
}
static bool writev_put(number n) {
    struct iovec iov = {&n, sizeof n};
    return whole(writev(ends[1], &iov, 1));
}
static bool readv_get(number *n) {
    struct iovec iov = {n, sizeof *n};
    return whole(readv(ends[0], &iov, 1));
}

struct message {
    long type;
    number n;
};
static bool msg_put(number n) {
    struct message m = {1, n};
    return msgsnd(id, &m, sizeof m.n, 0) == 0;
}
static bool msg_get(number *n) {
    struct message m;
    bool done = whole(msgrcv(id, &m, sizeof m.n, 0, 0));
    *n = m.n;
    return done;
}
static bool mq_put(number n) { return mq_send(mq, (const char *)&n, sizeof n, 0) == 0; }
static bool mq_get(number *n) { return whole(mq_receive(mq, (char *)n, sizeof *n, NULL)); }

/* A cell guarded by two semaphores: a token that is lost hangs, one that is had twice loses a number. */
static bool take(sem_t *sem) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += LONG_MS / 1000;
    return sem_clockwait(sem, CLOCK_MONOTONIC, &t) == 0;
}
static bool sem_put(number n) {
    if (!take(&empty)) {
        return false;
    }
    cell = n;
    return sem_post(&full) == 0;
}
static bool sem_get(number *n) {
    if (!take(&full)) {
        return false;
    }
    *n = cell;
    return sem_post(&empty) == 0;
}
static bool semop_one(unsigned short which, short change) {
    struct sembuf operation = {which, change, 0};
    return semop(id, &operation, 1) == 0;
}
static bool semop_put(number n) {
    if (!semop_one(0, -1)) {
        return false;
    }
    cell = n;
    return semop_one(1, 1);
}
static bool semop_get(number *n) {
    if (!semop_one(1, -1)) {
        return false;
    }
    *n = cell;
    return semop_one(0, 1);
}
/* The producer takes the write lock's place by a byte through a FIFO-like pair: one byte per accept. */
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static bool connect_put(number n) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool done = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    int saved = errno;
    if (done) {
        done = whole(send(fd, &n, sizeof n, MSG_DONTWAIT)); /* cannot wait, so it is not broken */
        saved = errno;
    }
    close(fd);
    errno = saved;
    return done;
}
static bool accept_get(number *n) {
    int fd = accept(ends[0], NULL, NULL);
    if (fd < 0) {
        return false;
    }
    while (!whole(recv(fd, n, sizeof *n, MSG_DONTWAIT))) {
    }
    close(fd);
    return true;
}

static bool make_pipes(void) { return pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0; }
static bool make_sockets(void) { return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0; }
static bool make_msg(void) { return (id = msgget(IPC_PRIVATE, 0600)) >= 0; }
static bool make_mq(void) {
    mq = scratch_queue(4, sizeof(number));
    return true;
}
static bool make_sems(void) { return sem_init(&full, 0, 0) == 0 && sem_init(&empty, 0, 1) == 0; }
static bool make_semop(void) { return (id = semget(IPC_PRIVATE, 2, 0600)) >= 0 && semop_one(0, 1); }
static bool make_listener(void) {
    scratch_path(address.sun_path, sizeof address.sun_path);
    ends[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return bind(ends[0], (struct sockaddr *)&address, sizeof address) == 0 && listen(ends[0], 1) == 0;
}
static void unmake(void) {
    for (int i = 0; i < 2; i++) {
        if (ends[i] >= 0) {
            close(ends[i]);
        }
        ends[i] = -1;
    }
    if (id >= 0) {
        semctl(id, 0, IPC_RMID);
        msgctl(id, IPC_RMID, NULL);
    }
    id = -1;
    if (address.sun_path[0] != '\0') {
        unlink(address.sun_path);
        address.sun_path[0] = '\0';
    }
}

static const struct channel {
    const char *name;
    bool (*make)(void);
    bool (*put)(number);
    bool (*get)(number *);
} channels[] = {
    {"write, read", make_pipes, write_put, read_get},     {"writev, readv", make_pipes, writev_put, readv_get},
    {"write, poll", make_pipes, write_put, poll_get},     {"send, recv", make_sockets, send_put, recv_get},
    {"send, select", make_sockets, send_put, select_get}, {"msgsnd, msgrcv", make_msg, msg_put, msg_get},
    {"mq_send, mq_receive", make_mq, mq_put, mq_get},     {"sem_clockwait", make_sems, sem_put, sem_get},
    {"semop", make_semop, semop_put, semop_get},          {"connect, accept", make_listener, connect_put, accept_get},
};

struct side {
    const struct channel *channel;
    number count;
    uint64_t seed;
    unsigned cleared;
    _Atomic int wrong; /* errno */
    number expected, got;
    _Atomic number done;
    _Atomic bool finished;
};

static bool go_on(struct side *s) {
    if (errno == ECANCELED && itr_clear() == 1) {
        s->cleared++;
        return true;
    }
    s->wrong = errno == ECANCELED ? EALREADY : errno;
    return false;
}

static void produce(void *arg) {
    struct side *s = arg;
    for (number n = 0; n < s->count; n++) {
        while (!s->channel->put(n)) {
            if (!go_on(s)) {
                s->finished = true;
                return;
            }
        }
        if (next_random(&s->seed) % 4 == 0) {
            spin_ns((int64_t)(next_random(&s->seed) % 30000)); /* so that the consumer gets to wait */
        }
    }
    s->finished = true;
}

static void consume(void *arg) {
    struct side *s = arg;
    for (number n = 0; n < s->count; n++) {
        number got = 0;
        while (!s->channel->get(&got)) {
            if (!go_on(s)) {
                s->finished = true;
                return;
            }
        }
        if (got != n) {
            s->wrong = EPROTO;
            s->expected = n;
            s->got = got;
            break;
        }
        s->done = n;
    }
    s->finished = true;
}

static void check(const struct side *s, const char *who, unsigned recorded, unsigned left) {
    if (s->wrong != 0) {
        fail_msg("%s: %s: %s (expected %u, got %u)", s->channel->name, who, strerror(s->wrong), s->expected, s->got);
    }
    if (s->cleared + left != recorded) {
        fail_msg("%s: %s: recorded %u, cleared %u, left %u", s->channel->name, who, recorded, s->cleared, left);
    }
}

static void completion(void **state) {
    uint64_t seed = stress_seed();
    number count = stress_count(3000);
    static struct worker w[2];
    static struct side sides[2];
    (void)state;
    ends[0] = ends[1] = id = -1;
    for (size_t i = 0; i < COUNT(channels); i++) {
        unsigned recorded[2] = {0, 0};
        assert_true(channels[i].make());
        for (int j = 0; j < 2; j++) {
            sides[j] = (struct side){.channel = &channels[i], .count = count, .seed = seed + (uint64_t)j};
            worker_start(&w[j], true);
            worker_give(&w[j], j == 0 ? produce : consume, &sides[j]);
        }
        int64_t since = now_ns();
        number done = 0;
        while (!sides[0].finished || !sides[1].finished) {
            if (sides[1].done != done) { /* slow, but it goes on */
                done = sides[1].done;
                since = now_ns();
            }
            check_patience(since, channels[i].name);
            size_t j = next_random(&seed) % 2;
            recorded[j] += itr_interrupt(w[j].thread) == ITR_OK;
            spin_ns((int64_t)(next_random(&seed) % 20000));
            if (sides[j].wrong != 0) {
                break;
            }
        }
        for (int j = 0; j < 2; j++) {
            const char *who = j == 0 ? "producer" : "consumer";
            check(&sides[j], who, recorded[j], itr_pending(w[j].thread) == 1);
            worker_stop(&w[j]);
        }
        printf("%s: %u numbers, %u + %u interrupts\n", channels[i].name, count, sides[0].cleared, sides[1].cleared);
        unmake();
    }
}

/* ---- connect, woken for an interrupt that was taken back --------------------------------------------------------- */

struct connecting {
    int fd, result, error;
};
static void do_connect(void *arg) {
    struct connecting *c = arg;
    errno = EDOM;
    c->result = connect(c->fd, (struct sockaddr *)&address, sizeof address);
    c->error = errno;
}

/* It goes on waiting, and when it says that it is connected, it is. */
static void connect_resumed(void **state) {
    const struct itr_stub_api *api = itr_stub_api();
    struct sockaddr_un peer;
    socklen_t len = sizeof peer;
    struct worker w;
    (void)state;
    assert_true(make_listener());
    assert_int_equal(listen(ends[0], 0), 0);
    struct connecting first = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
    struct connecting c = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
    do_connect(&first);
    assert_int_equal(first.result, 0);
    worker_start(&w, true);
    worker_give(&w, do_connect, &c);
    await_parked(w.thread, "connect");
    struct itr_slot *slot = api->lock_thread(w.thread);
    uint64_t word = slot->park; /* what itr_wake_locked() does; nothing is pending when it looks */
    assert_true(atomic_compare_exchange_strong(&slot->park, &word, word | ITR_PARK_WAKING));
    slot->sig_seen = ++slot->sig_sent;
    pthread_kill(w.thread, api->signal_number());
    atomic_fetch_and(&slot->park, ~ITR_PARK_WAKING);
    api->unlock(slot);
    await_parked(w.thread, "connect"); /* again: from the signal on it was not asleep */
    close(accept(ends[0], NULL, NULL));
    worker_wait(&w);
    assert_int_equal(c.result, 0);
    assert_int_equal(c.error, EDOM);
    assert_int_equal(getpeername(c.fd, (struct sockaddr *)&peer, &len), 0);
    worker_stop(&w);
    close(first.fd);
    close(c.fd);
    unmake();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(completion), cmocka_unit_test(connect_resumed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
