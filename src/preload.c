/* Linux: the exported symbols and the real functions behind them.
 *
 * Every wrapper has a hidden name (itr_call_X); the exported X only jumps to it. Inside this object a call of X would
 * reach the wrapper, so our own code calls itr_real.X. */
#include "preload.h"

#include "flag_table.h"
#include "foreign.h"
#include "interruptible.h"
#include "late_bind.h"
#include "lookup.h"
#include "monitor.h"
#include "self_pipe.h"
#include "signals.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>

/* ---- the real ones
 * --------------------------------------------------------------------------------------------------------- */

/* A pointer to a function is not a pointer to data in ISO C; POSIX promises that dlsym's result may be used as one. */
union symbol {
    void *data;
    void (*function)(void);
};

/* We stand behind libc in the search order, or in none: we were loaded into a running program. */
static bool loaded_late;

/* Of this object; the linker's own names. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));
static bool is_ours(const void *address) {
    return (uintptr_t)address >= (uintptr_t)__ehdr_start && (uintptr_t)address < (uintptr_t)_end;
}

static int is_libc_or_us(struct dl_phdr_info *info, size_t size, void *libc) {
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        uintptr_t end = start + info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type != PT_LOAD) {
            continue;
        }
        if ((uintptr_t)libc >= start && (uintptr_t)libc < end) {
            return 1;
        }
    }
    return is_ours(info->dlpi_phdr) ? 2 : 0;
}

/* Preloaded: the next after us. Loaded late: what the program's calls reached so far, which may be a wrapper of another
 * library that was preloaded.
 *
 * Only for symbols that exist dlsym does without malloc, which may come back to us through an allocator's own open or
 * read. Each pointer therefore resolves itself alone, so that such a call ends there. */
static bool resolve(void (**pointer)(void), const char *name) {
    int saved = errno;
    union symbol found = {dlsym(loaded_late ? RTLD_DEFAULT : RTLD_NEXT, name)};
    if (found.data == NULL || is_ours(found.data)) {
        found.data = dlsym(loaded_late ? RTLD_NEXT : RTLD_DEFAULT, name);
    }
    errno = saved;
    if (found.data == NULL || is_ours(found.data)) { /* libc has none, and we are the first that has */
        return false;
    }
    *pointer = found.function;
    return true;
}

#define RESOLVE(name) resolve((void (**)(void))(void *)&itr_real.name, #name)

/* Every pointer starts at a function that resolves it and goes on with the real one. So a call that comes before our
 * constructor (from another library's) works, and the hot path has no check. The variadic ones hand on the argument in
 * whatever register it came. */
#define FIRST(ret, name, params, args)                                                                                 \
    static ret first_##name params {                                                                                   \
        if (!RESOLVE(name)) {                                                                                          \
            errno = ENOSYS;                                                                                            \
            return (ret)-1;                                                                                            \
        }                                                                                                              \
        return itr_real.name args;                                                                                     \
    }
#define FIRST_VARIADIC(name, params, last, args)                                                                       \
    static int first_##name params {                                                                                   \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        void *arg = va_arg(rest, void *);                                                                              \
        va_end(rest);                                                                                                  \
        if (!RESOLVE(name)) {                                                                                          \
            errno = ENOSYS;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        return itr_real.name args;                                                                                     \
    }
#define VARIADIC(X)                                                                                                    \
    X(open, (const char *path, int flags, ...), flags, (path, flags, arg))                                             \
    X(open64, (const char *path, int flags, ...), flags, (path, flags, arg))                                           \
    X(openat, (int dir, const char *path, int flags, ...), flags, (dir, path, flags, arg))                             \
    X(openat64, (int dir, const char *path, int flags, ...), flags, (dir, path, flags, arg))                           \
    X(fcntl, (int fd, int command, ...), command, (fd, command, arg))                                                  \
    X(fcntl64, (int fd, int command, ...), command, (fd, command, arg))

VARIADIC(FIRST_VARIADIC)
static void first_closefrom(int first) {
    if (RESOLVE(closefrom)) {
        itr_real.closefrom(first);
    }
}

#define ITR_ROW(ret, name, body, class_, fd, params, args) FIRST_##body(ret, name, params, args)
#define FIRST_SIGNAL(ret, name, params, args) FIRST(ret, name, params, args)
#define FIRST_CUSTOM(ret, name, params, args) FIRST(ret, name, params, args)
#define FIRST_VARARGS(ret, name, params, args)
#define FIRST_VOID(ret, name, params, args)
#include "calls.def"
#undef ITR_ROW

struct itr_real_calls itr_real = {
#define ITR_ROW(ret, name, body, class_, fd, params, args) .name = first_##name,
#include "calls.def"
#undef ITR_ROW
};

/* ---- the exported ones
 * ----------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define LANDING "endbr64"
#define JUMP "jmp"
#elif defined(__aarch64__)
#define LANDING "hint #34" /* bti c */
#define JUMP "b"
#endif

#ifdef JUMP
/* A jump and nothing else, however this file is compiled: the wrapper finds the arguments where its caller has put
 * them, variable ones too, and its return address says which library that is (foreign.c). */
#define ITR_ROW(ret, name, body, class_, fd, params, args)                                                             \
    __asm__(".pushsection .text\n"                                                                                     \
            ".p2align 4\n"                                                                                             \
            ".globl " #name "\n"                                                                                       \
            ".type " #name ", %function\n" #name ":\n"                                                                 \
            ".cfi_startproc\n"                                                                                         \
            "\t" LANDING "\n"                                                                                          \
            "\t" JUMP " itr_call_" #name "\n"                                                                          \
            ".cfi_endproc\n"                                                                                           \
            ".size " #name ", . - " #name "\n"                                                                         \
            ".popsection");
#include "calls.def"
#undef ITR_ROW

#else
/* A call that optimisation makes a jump. Where it does not, no foreign library is known by name. */
#define EXPORT __attribute__((visibility("default")))

#define EXPORT_SIGNAL(ret, name, params, args)                                                                         \
    EXPORT ret itr_export_##name params __asm__(#name);                                                                \
    ret itr_export_##name params { return itr_call_##name args; }
#define EXPORT_CUSTOM(ret, name, params, args) EXPORT_SIGNAL(ret, name, params, args)
#define EXPORT_VARARGS(ret, name, params, args)
#define EXPORT_VOID(ret, name, params, args)                                                                           \
    EXPORT ret itr_export_##name params __asm__(#name);                                                                \
    ret itr_export_##name params { itr_call_##name args; }
#define EXPORT_VARIADIC(name, params, last, args)                                                                      \
    EXPORT int itr_export_##name params __asm__(#name);                                                                \
    int itr_export_##name params {                                                                                     \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        void *arg = va_arg(rest, void *);                                                                              \
        va_end(rest);                                                                                                  \
        return itr_call_##name args;                                                                                   \
    }

#define ITR_ROW(ret, name, body, class_, fd, params, args) EXPORT_##body(ret, name, params, args)
#include "calls.def"
#undef ITR_ROW
VARIADIC(EXPORT_VARIADIC)
#endif

/* ---- life
 * ------------------------------------------------------------------------------------------------------------------ */

static void before_fork(void) {
    itr_monitor_stop();
    itr_table_before_fork();
    itr_pipe_before_fork();
    itr_late_before_fork();
}

static void after_fork_parent(void) {
    itr_late_after_fork(false);
    itr_pipe_after_fork(false);
    itr_table_after_fork(false);
    itr_monitor_after_fork(false);
}

static void after_fork_child(void) {
    itr_signals_after_fork();
    itr_pipe_after_fork(true);
    itr_table_after_fork(true);
    itr_monitor_after_fork(true);
    itr_lookups_after_fork();
    itr_foreign_after_fork();
    itr_late_after_fork(true);
}

__attribute__((constructor(101))) static void start(void) {
    int saved = errno;
    /* The linker lists objects in the order in which it searches them, and what is loaded later behind these. */
    loaded_late = dl_iterate_phdr(is_libc_or_us, dlsym(RTLD_DEFAULT, "__libc_start_main")) == 1;
#define ITR_ROW(ret, name, body, class_, fd, params, args) (void)RESOLVE(name);
#include "calls.def"
#undef ITR_ROW
    itr_foreign_start();
    itr_late_start();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
    errno = saved;
}

/* Does the process call us? The first definition in the global scope is ours when we were preloaded, at least of a
 * function that no sanitizer wraps before us. (Not by the address of our own `recv`: a reference to an exported name is
 * itself bound to the first definition.) */
bool itr_preloaded(void) {
    static _Atomic int known; /* 1: no, 2: yes; it cannot change */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == 0) {
        union symbol first = {dlsym(RTLD_DEFAULT, "siginterrupt")};
        union symbol ours = {.function = (void (*)(void))itr_preloaded};
        Dl_info first_in;
        Dl_info ours_in;
        bool same = first.data != NULL && dladdr(first.data, &first_in) != 0 && dladdr(ours.data, &ours_in) != 0 &&
                    first_in.dli_fbase == ours_in.dli_fbase;
        answer = same ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}
