/* An allocator that reads a file when it is first asked, as some read their settings: before our constructor has run,
 * as its own constructor comes first and allocates. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size); /* glibc's */

int wrong(void);
static int line = -1; /* not asked yet */
int wrong(void) { return line; }

static int calls(void) {
    char text[16];
    struct pollfd none = {.fd = -1, .events = POLLIN};
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return __LINE__;
    }
    if (read(fd, text, sizeof text) <= 0) {
        return __LINE__;
    }
    if (poll(&none, 1, 1) != 0) {
        return __LINE__;
    }
    return close(fd) == 0 ? 0 : __LINE__;
}

void *malloc(size_t size) {
    static bool asked;
    if (!asked) {
        int saved = errno;
        asked = true;
        line = calls();
        errno = saved;
    }
    return __libc_malloc(size);
}

__attribute__((constructor)) static void start(void) {
    void *volatile block = malloc(1);
    free(block);
}
