/* Every blocking call on files, pipes and locks: parked for real, interrupted, and used again. */
#include "rows.h"

#include "libc_types.h"
#include "park.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static long do_read(struct fixture *f) { return read(f->a[0], &f->byte, 1); }
static long do_read_chk(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, void *, size_t, size_t))(f->a[0], &f->byte, 1, 1);
}
static long do_readv(struct fixture *f) {
    struct iovec iov = {&f->byte, 1};
    return readv(f->a[0], &iov, 1);
}
/* With an offset of -1 preadv2 and pwritev2 are readv and writev, which can be made to wait. */
static long do_preadv2(struct fixture *f) {
    struct iovec iov = {&f->byte, 1};
    return CALL(f, ssize_t(*)(int, const struct iovec *, int, off_t, int))(f->a[0], &iov, 1, -1, 0);
}
static void make_eventfd(struct fixture *f) { f->a[0] = eventfd(0, EFD_CLOEXEC); }
static long do_eventfd_read(struct fixture *f) {
    eventfd_t value = 0;
    int result = eventfd_read(f->a[0], &value);
    f->byte = (char)value;
    return result;
}
static void put_event(struct fixture *f) { assert_int_equal(eventfd_write(f->a[0], 7), 0); }
static void make_full_eventfd(struct fixture *f) {
    make_eventfd(f);
    assert_int_equal(eventfd_write(f->a[0], UINT64_MAX - 1), 0);
}
static long do_eventfd_write(struct fixture *f) { return eventfd_write(f->a[0], 7); }
static void take_event(struct fixture *f) {
    eventfd_t value = 0;
    assert_int_equal(eventfd_read(f->a[0], &value), 0);
    assert_true(value == UINT64_MAX - 1);
}
static bool gave_event(struct fixture *f) {
    eventfd_t value = 0;
    bool once = f->result == 0 && eventfd_read(f->a[0], &value) == 0 && value == 7;
    assert_int_equal(eventfd_write(f->a[0], UINT64_MAX - 1), 0);
    return once;
}
static bool got_event(struct fixture *f) { return f->result == 0 && f->byte == 7; }

/* Nothing at hand that takes an offset can be made to wait at will. */
static void make_file(struct fixture *f) {
    f->a[0] = memfd_create("itr-test", MFD_CLOEXEC);
    f->a[1] = fcntl(f->a[0], F_DUPFD_CLOEXEC, 0);
    assert_int_equal(write(f->a[0], "xyz", 3), 3);
}
static void nothing(struct fixture *f) { f->byte = 0; }
static long do_pread(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, void *, size_t, off_t))(f->a[0], &f->byte, 1, 0);
}
static long do_pread_chk(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, void *, size_t, off_t, size_t))(f->a[0], &f->byte, 1, 0, 1);
}
static long do_preadv(struct fixture *f) {
    struct iovec iov = {&f->byte, 1};
    return CALL(f, ssize_t(*)(int, const struct iovec *, int, off_t))(f->a[0], &iov, 1, 0);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void full_pipe(struct fixture *f) {
    make_pipe(f);
    fill(f);
}
static char letter[] = "y";
static long do_write(struct fixture *f) { return write(f->a[1], letter, 1); }
static long do_writev(struct fixture *f) {
    struct iovec iov = {letter, 1};
    return writev(f->a[1], &iov, 1);
}
static long do_vmsplice(struct fixture *f) {
    struct iovec iov = {letter, 1};
    return vmsplice(f->a[1], &iov, 1, 0);
}
static long do_pwritev2(struct fixture *f) {
    struct iovec iov = {letter, 1};
    return CALL(f, ssize_t(*)(int, const struct iovec *, int, off_t, int))(f->a[1], &iov, 1, -1, 0);
}
static long do_pwrite(struct fixture *f) {
    return CALL(f, ssize_t(*)(int, const void *, size_t, off_t))(f->a[0], letter, 1, 2);
}
static long do_pwritev(struct fixture *f) {
    struct iovec iov = {letter, 1};
    return CALL(f, ssize_t(*)(int, const struct iovec *, int, off_t))(f->a[0], &iov, 1, 2);
}
static void unwritten(struct fixture *f) { /* the broken one may have written nothing */
    char byte = 0;
    assert_int_equal(pread(f->a[0], &byte, 1, 2), 1);
    assert_int_equal(byte, 'z');
}
static bool written(struct fixture *f) {
    char byte = 0;
    return f->result == 1 && pread(f->a[0], &byte, 1, 2) == 1 && byte == 'y';
}

/* ---- copying ----------------------------------------------------------------------------------------------------- */

static void file_and_full_pipe(struct fixture *f) {
    full_pipe(f);
    f->b[0] = memfd_create("itr-test", MFD_CLOEXEC);
    assert_int_equal(write(f->b[0], "z", 1), 1);
}
static long do_sendfile(struct fixture *f) {
    off_t offset = 0;
    return CALL(f, ssize_t(*)(int, int, off_t *, size_t))(f->a[1], f->b[0], &offset, 1);
}
static void two_pipes(struct fixture *f) {
    make_pipe(f);
    assert_int_equal(pipe2(f->b, O_CLOEXEC), 0);
}
static bool moved_byte(struct fixture *f) {
    return f->result == 1 && read(f->b[0], &f->byte, 1) == 1 && f->byte == 'x';
}
static long do_splice(struct fixture *f) { return splice(f->a[0], NULL, f->b[1], NULL, 1, 0); }
static long do_tee(struct fixture *f) { return tee(f->a[0], f->b[1], 1, 0); }
static bool teed_byte(struct fixture *f) {
    char byte = 0;
    return moved_byte(f) && read(f->a[0], &byte, 1) == 1 && byte == 'x';
}
static void two_files(struct fixture *f) {
    make_file(f);
    f->b[0] = memfd_create("itr-test", MFD_CLOEXEC);
}
static long do_copy_file_range(struct fixture *f) {
    off64_t from = 0;
    off64_t to = 0;
    return copy_file_range(f->a[0], &from, f->b[0], &to, 1, 0);
}
static bool copied(struct fixture *f) {
    return f->result == 1 && pread(f->b[0], &f->byte, 1, 0) == 1 && f->byte == 'x';
}

/* ---- opening a FIFO ---------------------------------------------------------------------------------------------- */

static void make_fifo(struct fixture *f) {
    scratch_path(f->path, sizeof f->path);
    assert_int_equal(mkfifo(f->path, 0600), 0);
}
static long do_open(struct fixture *f) {
    return CALL(f, int (*)(const char *, int, ...))(f->path, O_RDONLY | O_CLOEXEC);
}
static long do_open_2(struct fixture *f) { return CALL(f, int (*)(const char *, int))(f->path, O_RDONLY | O_CLOEXEC); }
static long do_creat(struct fixture *f) { /* for writing: wants a reader */
    long fd = CALL(f, int (*)(const char *, mode_t))(f->path, 0600);
    int saved = errno;
    if (fd >= 0) {
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    }
    errno = saved;
    return fd;
}
static long do_openat(struct fixture *f) {
    return CALL(f, int (*)(int, const char *, int, ...))(AT_FDCWD, f->path, O_RDONLY | O_CLOEXEC);
}
static long do_openat_2(struct fixture *f) {
    return CALL(f, int (*)(int, const char *, int))(AT_FDCWD, f->path, O_RDONLY | O_CLOEXEC);
}
static void open_writer(struct fixture *f) {
    if (f->a[0] < 0) {
        f->a[0] = open(f->path, O_RDWR | O_CLOEXEC);
    }
}
static bool opened(struct fixture *f) { /* the mode of a file that is made comes through, too */
    return f->result >= 0 && fcntl((int)f->result, F_GETFD) == FD_CLOEXEC && close((int)f->result) == 0;
}

/* ---- locks ------------------------------------------------------------------------------------------------------- */

static void two_descriptions(struct fixture *f) {
    char path[64];
    f->a[0] = memfd_create("itr-test", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", f->a[0]);
    f->a[1] = open(path, O_RDWR | O_CLOEXEC);
    assert_true(f->a[1] >= 0);
}
static void flocked(struct fixture *f) {
    two_descriptions(f);
    assert_int_equal(flock(f->a[1], LOCK_EX), 0);
}
static long do_flock(struct fixture *f) { return flock(f->a[0], LOCK_EX); }
static void let_flock(struct fixture *f) { assert_int_equal(flock(f->a[1], LOCK_UN), 0); }
static bool has_flock(struct fixture *f) { /* mine, so that the other one cannot have it */
    return f->result == 0 && flock(f->a[1], LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK &&
           flock(f->a[0], LOCK_UN) == 0;
}
/* A lock of an open file description conflicts with the process's own. */
static int ofd_lock(int fd, int command, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return fcntl(fd, command, &lock);
}
static void record_locked(struct fixture *f) {
    two_descriptions(f);
    assert_int_equal(ofd_lock(f->a[1], F_OFD_SETLK, F_WRLCK), 0);
}
static long do_fcntl(struct fixture *f) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return CALL(f, int (*)(int, int, ...))(f->a[0], F_SETLKW, &lock);
}
static long do_ofd_fcntl(struct fixture *f) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return CALL(f, int (*)(int, int, ...))(f->a[0], F_OFD_SETLKW, &lock);
}
static long do_lockf(struct fixture *f) { return CALL(f, int (*)(int, int, off_t))(f->a[0], F_LOCK, 1); }
static void let_record(struct fixture *f) { assert_int_equal(ofd_lock(f->a[1], F_OFD_SETLK, F_UNLCK), 0); }
static bool has_record(struct fixture *f) {
    bool right = f->result == 0 && ofd_lock(f->a[1], F_OFD_SETLK, F_WRLCK) == -1;
    return ofd_lock(f->a[0], F_SETLK, F_UNLCK) == 0 && ofd_lock(f->a[0], F_OFD_SETLK, F_UNLCK) == 0 && right;
}

/* A pseudo-terminal has never anything to drain. */
static void make_terminal(struct fixture *f) {
    f->a[1] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(f->a[1] >= 0);
    assert_int_equal(grantpt(f->a[1]) | unlockpt(f->a[1]), 0);
    f->a[0] = open(ptsname(f->a[1]), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(f->a[0] >= 0);
}
static long do_tcdrain(struct fixture *f) { return tcdrain(f->a[0]); }

#define READ(name, call)                                                                                               \
    { name, make_pipe, call, put_byte, got_byte, 0, NULL, NULL }
#define READ_AT(name, call)                                                                                            \
    { name, make_file, call, nothing, got_byte, ENTRY_ONLY, NULL, NULL }
#define WRITE(name, call)                                                                                              \
    { name, full_pipe, call, drain, sent_byte, 0, NULL, NULL }
#define WRITE_AT(name, call)                                                                                           \
    { name, make_file, call, unwritten, written, ENTRY_ONLY, NULL, NULL }
#define OPEN(name, call)                                                                                               \
    { name, make_fifo, call, open_writer, opened, 0, NULL, NULL }
#define RECORD(name, call)                                                                                             \
    { name, record_locked, call, let_record, has_record, 0, NULL, NULL }

static const struct row rows[] = {
    READ("read", do_read),
    READ("__read_chk", do_read_chk),
    READ("readv", do_readv),
    READ("preadv2", do_preadv2),
    READ("preadv64v2", do_preadv2),
    READ_AT("pread", do_pread),
    READ_AT("pread64", do_pread),
    READ_AT("__pread_chk", do_pread_chk),
    READ_AT("__pread64_chk", do_pread_chk),
    READ_AT("preadv", do_preadv),
    READ_AT("preadv64", do_preadv),
    {"eventfd_read", make_eventfd, do_eventfd_read, put_event, got_event, 0, NULL, NULL},
    {"eventfd_write", make_full_eventfd, do_eventfd_write, take_event, gave_event, 0, NULL, NULL},
    WRITE("vmsplice", do_vmsplice),
    WRITE("write", do_write),
    WRITE("writev", do_writev),
    WRITE("pwritev2", do_pwritev2),
    WRITE("pwritev64v2", do_pwritev2),
    WRITE_AT("pwrite", do_pwrite),
    WRITE_AT("pwrite64", do_pwrite),
    WRITE_AT("pwritev", do_pwritev),
    WRITE_AT("pwritev64", do_pwritev),
    {"sendfile", file_and_full_pipe, do_sendfile, drain, sent_byte, 0, NULL, NULL},
    {"sendfile64", file_and_full_pipe, do_sendfile, drain, sent_byte, 0, NULL, NULL},
    {"splice", two_pipes, do_splice, put_byte, moved_byte, 0, NULL, NULL},
    {"tee", two_pipes, do_tee, put_byte, teed_byte, 0, NULL, NULL},
    {"copy_file_range", two_files, do_copy_file_range, nothing, copied, ENTRY_ONLY, NULL, NULL},
    OPEN("open", do_open),
    OPEN("open64", do_open),
    OPEN("creat", do_creat),
    OPEN("creat64", do_creat),
    OPEN("openat", do_openat),
    OPEN("openat64", do_openat),
    OPEN("__open_2", do_open_2),
    OPEN("__open64_2", do_open_2),
    OPEN("__openat_2", do_openat_2),
    OPEN("__openat64_2", do_openat_2),
    {"flock", flocked, do_flock, let_flock, has_flock, 0, NULL, NULL},
    RECORD("fcntl", do_fcntl),
    RECORD("fcntl64", do_fcntl),
    RECORD("fcntl", do_ofd_fcntl),
    RECORD("fcntl64", do_ofd_fcntl),
    RECORD("lockf", do_lockf),
    RECORD("lockf64", do_lockf),
    {"tcdrain", make_terminal, do_tcdrain, nothing, gave_zero, ENTRY_ONLY, NULL, NULL},
};

#define RUN(way) run_rows(rows, COUNT(rows), way)
static void broken(void **state) { (void)state, RUN(BREAK); }
static void masked(void **state) { (void)state, RUN(MASKED); }
static void plain(void **state) { (void)state, RUN(PLAIN); }
static void attached_plain(void **state) { (void)state, RUN(ATTACHED_PLAIN); }
static void restarted(void **state) { (void)state, RUN(RESTARTED); }
static void covered(void **state) {
    (void)state;
    check_covered(rows, COUNT(rows), ITR_READ | ITR_WRITE | ITR_COPY | ITR_OPEN | ITR_FLOCK | ITR_MISC);
}

/* The variadic ones hand on their third argument: a mode, a number, a pointer. */
static void variadic(void **state) {
    (void)state;
    char path[64];
    struct stat st;
    scratch_path(path, sizeof path);
    mode_t mask = umask(0);
    for (int attached = 0; attached < 2; attached++) {
        for (int at = 0; at < 2; at++) {
            int flags = O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC;
            int fd = at ? openat(AT_FDCWD, path, flags, 0640) : open(path, flags, 0640);
            assert_true(fd >= 0);
            assert_int_equal(fstat(fd, &st), 0);
            assert_int_equal(st.st_mode & 07777, 0640);
            assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
            assert_true((fcntl(fd, F_GETFL) & O_APPEND) != 0);
            int copy = fcntl(fd, F_DUPFD, 100);
            assert_true(copy >= 100);
            close(copy);
            close(fd);
            unlink(path);
        }
        assert_int_equal(attached ? itr_detach() : itr_attach(), ITR_OK);
    }
    umask(mask);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covered),  cmocka_unit_test(broken),    cmocka_unit_test(masked),
        cmocka_unit_test(plain),    cmocka_unit_test(restarted), cmocka_unit_test(attached_plain),
        cmocka_unit_test(variadic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
