/* A library that waits. Built under several names: whose wait it is decides what an interrupt does to it. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

__attribute__((visibility("default"))) int waits_poll(int fd);
__attribute__((visibility("default"))) int waits_poll_for(int fd, int ms);
__attribute__((visibility("default"))) int waits_poll_retrying(int fd, unsigned *interruptions);
__attribute__((visibility("default"))) int waits_sleep(void);
__attribute__((visibility("default"))) int waits_read(int fd);

/* 0: readable; else the error number. */
int waits_poll(int fd) {
    struct pollfd set = {.fd = fd, .events = POLLIN};
    return poll(&set, 1, -1) == -1 ? errno : 0;
}

/* 0: the time is over, or it is readable; else the error number. It looks at errno alone, as psycopg 3 does. */
int waits_poll_for(int fd, int ms) {
    struct pollfd set = {.fd = fd, .events = POLLIN};
    errno = 0;
    poll(&set, 1, ms);
    return errno;
}

/* As most libraries do. */
int waits_poll_retrying(int fd, unsigned *interruptions) {
    int error;
    while ((error = waits_poll(fd)) == EINTR) {
        ++*interruptions;
    }
    return error;
}

/* The byte, or the negative error number. */
int waits_read(int fd) {
    unsigned char byte;
    return read(fd, &byte, 1) == 1 ? byte : -errno;
}

int waits_sleep(void) { return usleep(900000000) == -1 ? errno : 0; }
