/* An object with calls of libc, built in each of the ways that lay out its slots differently. */
#include <errno.h>
#include <unistd.h>

__attribute__((visibility("default"))) int reader_read(int fd);
__attribute__((visibility("default"))) int reader_read_by_table(int fd);
__attribute__((visibility("default"))) void *reader_address(void);
__attribute__((visibility("default"))) extern ssize_t (*reader_table[2])(int, void *, size_t);

/* 0, or the error number. */
int reader_read(int fd) {
    char c;
    return read(fd, &c, 1) == -1 ? errno : 0;
}

/* The same through a table, which the object may change. */
ssize_t (*reader_table[2])(int, void *, size_t) = {read};

int reader_read_by_table(int fd) {
    char c;
    return reader_table[0](fd, &c, 1) == -1 ? errno : 0;
}

/* What the object takes for read(). */
void *reader_address(void) {
    union {
        ssize_t (*function)(int, void *, size_t);
        void *data;
    } address = {read};
    return address.data;
}
