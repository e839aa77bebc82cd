/* A library with calls of libc, and with a function that is chosen while the dynamic linker relocates the library: amid
 * its other relocations. Whoever chooses sends the thread a signal, whose handler stands for another thread. */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int reader_read(int fd);
__attribute__((visibility("default"))) void *reader_address(void);
__attribute__((visibility("default"))) int chosen(void);

static int choice(void) { return 7; }

/* Nothing here may need a relocation. */
static __attribute__((always_inline)) inline long call(long number, long a, long b) {
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long n __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(n), "r"(x1) : "memory");
    return x0;
#endif
}

static int (*choose(void))(void) {
    call(SYS_tkill, call(SYS_gettid, 0, 0), SIGUSR1);
    return choice;
}

int chosen(void) __attribute__((ifunc("choose")));

/* Has the linker choose when it comes to the data, before it comes to the calls. */
__attribute__((visibility("default"))) int (*const volatile pointer)(void) = chosen;

int reader_read(int fd) {
    char c;
    usleep(0); /* through the PLT, as nobody takes its address */
    return read(fd, &c, 1) == -1 ? errno : pointer() - 7;
}

void *reader_address(void) {
    union {
        ssize_t (*function)(int, void *, size_t);
        void *data;
    } address = {read};
    return address.data;
}
