/* What the Python tests need from threads that no interpreter knows of, and from C.
 *
 * Needs neither Python's headers nor the library's: the functions to call are given as pointers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- a thread that calls `send(target)` at random moments */

struct storm {
    pthread_t thread;
    int (*send)(pthread_t);
    int signal; /* when `send` is NULL: pthread_kill() with this one */
    unsigned n;
    uint64_t random;
    uint32_t pause_ns; /* on average, between two */
    _Atomic int stop;
    _Atomic uint64_t done;      /* send() returned 0 */
    _Atomic uint64_t coalesced; /* ... a positive number */
    _Atomic uint64_t refused;   /* ... a negative one */
    pthread_t targets[];
};

static uint32_t next_random(struct storm *s) { /* splitmix64 */
    uint64_t z = s->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static void *rage(void *arg) {
    struct storm *s = arg;
    while (atomic_load(&s->stop) == 0) {
        pthread_t target = s->targets[next_random(s) % s->n];
        int result = s->send != NULL ? s->send(target) : pthread_kill(target, s->signal);
        atomic_fetch_add(result == 0 ? &s->done : result > 0 ? &s->coalesced : &s->refused, 1);
        struct timespec pause = {0, next_random(s) % (2 * s->pause_ns)};
        if (next_random(s) % 4 != 0) { /* now and then two in a row */
            nanosleep(&pause, NULL);
        }
    }
    return NULL;
}

/* NULL when there is no memory or no thread to be had. */
struct storm *storm_start(int (*send)(pthread_t), int signal, const unsigned long *targets, unsigned n, uint64_t seed,
                          uint32_t pause_ns) {
    struct storm *s = calloc(1, sizeof *s + n * sizeof *s->targets);
    if (s == NULL) {
        return NULL;
    }
    s->send = send;
    s->signal = signal;
    s->n = n;
    s->random = seed;
    s->pause_ns = pause_ns;
    for (unsigned i = 0; i < n; i++) {
        s->targets[i] = (pthread_t)targets[i];
    }
    if (pthread_create(&s->thread, NULL, rage, s) != 0) {
        free(s);
        return NULL;
    }
    return s;
}

void storm_counts(struct storm *s, uint64_t counts[3]) {
    counts[0] = atomic_load(&s->done);
    counts[1] = atomic_load(&s->coalesced);
    counts[2] = atomic_load(&s->refused);
}

/* Waits until it has ended: no call is on its way any more. */
void storm_stop(struct storm *s) {
    atomic_store(&s->stop, 1);
    pthread_join(s->thread, NULL);
}

void storm_free(struct storm *s) { free(s); }

/* ---- a trace function, for PyEval_SetTrace() and PyEval_SetProfile() */

static _Atomic uint64_t events;

int count_event(void *object, void *frame, int what, void *arg) {
    (void)object;
    (void)frame;
    (void)what;
    (void)arg;
    atomic_fetch_add(&events, 1);
    return 0;
}

uint64_t count_events(void) { return atomic_load(&events); }

/* ---- a thread that calls Python now and then: it has a new thread state each time */

struct calls {
    void (*callback)(unsigned);
    unsigned times;
};

static void *make_calls(void *arg) {
    const struct calls *calls = arg;
    for (unsigned i = 0; i < calls->times; i++) {
        calls->callback(i);
    }
    return NULL;
}

int call_from_a_thread(void (*callback)(unsigned), unsigned times) {
    struct calls calls = {callback, times};
    pthread_t thread;
    int error = pthread_create(&thread, NULL, make_calls, &calls);
    return error != 0 ? error : pthread_join(thread, NULL);
}

/* ---- a thread that gets no processor: it sleeps in a signal handler, by system call, which nobody wraps */

static _Atomic int stop_ms;

static void stop_here(int number) {
    (void)number;
    int saved = errno;
    struct timespec rest = {0, atomic_load(&stop_ms) * 1000000L};
    while (syscall(SYS_nanosleep, &rest, &rest) != 0 && errno == EINTR) {
    }
    errno = saved;
}

/* 0, or an error number. */
int stop_for_a_while(unsigned long thread, int ms) {
    const struct sigaction action = {.sa_handler = stop_here};
    if (sigaction(SIGUSR2, &action, NULL) != 0) {
        return errno;
    }
    atomic_store(&stop_ms, ms);
    return pthread_kill((pthread_t)thread, SIGUSR2);
}
