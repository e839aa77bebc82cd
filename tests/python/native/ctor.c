/* A library whose constructor makes calls of every kind, perhaps before our own constructor has run, and starts a
 * thread that waits. wrong() says at which line a result was not what it ought to be; 0: never. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define UNTOUCHED 4242

int wrong(void);
int seen(void);
int let_go(void);

static int line;
static _Atomic int signals;
static int ends[2];
static pthread_t thread;

int wrong(void) { return line; }
int seen(void) { return atomic_load(&signals); }

static void counts(int sig) {
    (void)sig;
    atomic_fetch_add(&signals, 1);
}

static void *waits(void *arg) {
    static int found;
    char byte = 0;
    (void)arg;
    errno = UNTOUCHED;
    found = read(ends[0], &byte, 1) == 1 && errno == UNTOUCHED ? byte : -1;
    return &found;
}

/* What the thread has read, or -1. */
int let_go(void) {
    void *found;
    return write(ends[1], "x", 1) == 1 && pthread_join(thread, &found) == 0 ? *(int *)found : -1;
}

#define WANT(condition)                                                                                                \
    if (!(condition)) {                                                                                                \
        return __LINE__;                                                                                               \
    }

static int calls(void) {
    char text[16];
    struct pollfd none = {.fd = -1, .events = POLLIN};
    const struct timespec brief = {0, 1000};
    struct sigaction act;
    struct sigaction old;
    sigset_t urgent;
    sigset_t was;
    errno = UNTOUCHED; /* nothing below fails */
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    WANT(fd >= 0);
    WANT(read(fd, text, sizeof text) > 0);
    WANT(close(fd) == 0);
    WANT(poll(&none, 1, 1) == 0);
    WANT(nanosleep(&brief, NULL) == 0);
    memset(&act, 0, sizeof act);
    act.sa_handler = counts;
    act.sa_flags = SA_RESTART;
    sigemptyset(&act.sa_mask);
    WANT(sigaction(SIGURG, &act, &old) == 0);
    WANT(sigaction(SIGURG, NULL, &old) == 0);
    WANT(old.sa_handler == counts && (old.sa_flags & SA_RESTART) != 0);
    sigemptyset(&urgent);
    sigaddset(&urgent, SIGURG);
    WANT(pthread_sigmask(SIG_BLOCK, &urgent, &was) == 0);
    WANT(pthread_sigmask(SIG_SETMASK, &was, &urgent) == 0);
    WANT(sigismember(&urgent, SIGURG) == 1 && sigismember(&was, SIGURG) == 0);
    WANT(pipe2(ends, O_CLOEXEC) == 0);
    WANT(pthread_create(&thread, NULL, waits, NULL) == 0);
    WANT(errno == UNTOUCHED);
    WANT(read(-1, text, 1) == -1 && errno == EBADF);
    return 0;
}

__attribute__((constructor)) static void start(void) {
    int saved = errno;
    line = calls();
    errno = saved;
}
