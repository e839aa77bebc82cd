/* An object with calls of libc, built in each of the ways that lay out its slots differently. */
#include <errno.h>
#include <unistd.h>

__attribute__((visibility("default"))) int reader_read(int fd);
__attribute__((visibility("default"))) void *reader_address(void);

/* 0, or the error number. */
int reader_read(int fd) {
    char c;
    return read(fd, &c, 1) == -1 ? errno : 0;
}

/* What the object takes for read(). */
void *reader_address(void) {
    union {
        ssize_t (*function)(int, void *, size_t);
        void *data;
    } address = {read};
    return address.data;
}
