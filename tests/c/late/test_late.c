/* Late binding: a program that was started without the shim, and loads it as ctypes does. */
#include "interruptible.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h> /* wants setjmp.h, stdarg.h, stddef.h and stdint.h first */

static struct {
    int (*active)(void);
    int (*bind)(void);
    int (*unbind)(void);
    int (*attach)(void);
    int (*interrupt)(pthread_t);
    int (*clear)(void);
    int (*where)(pthread_t, struct itr_where *);
} shim;

struct reader {
    void *handle;
    int (*read)(int fd);
    void *(*address)(void);
};

static int ends[2];

static void *symbol(void *handle, const char *name) {
    void *found = dlsym(handle, name);
    if (found == NULL) {
        fail_msg("%s", dlerror());
    }
    return found;
}

static struct reader load(const char *scenario) {
    char path[4096];
    struct reader r;
    snprintf(path, sizeof path, "%s/lib%s.so", TEST_LIBRARIES, scenario);
    r.handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (r.handle == NULL) {
        fail_msg("%s", dlerror());
    }
    *(void **)(void *)&r.read = symbol(r.handle, "reader_read");
    *(void **)(void *)&r.address = symbol(r.handle, "reader_address");
    return r;
}

/* The main program's own call. */
static int own_read(int fd) {
    char c;
    return read(fd, &c, 1) == -1 ? errno : 0;
}

static int set_up(void **state) {
    (void)state;
    void *library = dlopen(TEST_SHIM, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        print_error("%s\n", dlerror());
        return -1;
    }
    *(void **)(void *)&shim.active = symbol(library, "itr_active");
    *(void **)(void *)&shim.bind = symbol(library, "itr_bind");
    *(void **)(void *)&shim.unbind = symbol(library, "itr_unbind");
    *(void **)(void *)&shim.attach = symbol(library, "itr_attach");
    *(void **)(void *)&shim.interrupt = symbol(library, "itr_interrupt");
    *(void **)(void *)&shim.clear = symbol(library, "itr_clear");
    *(void **)(void *)&shim.where = symbol(library, "itr_where");
    return pipe(ends);
}

/* ---- a thread that reads ----------------------------------------------------------------------------------------- */

struct job {
    int (*read)(int fd);
    _Atomic bool begun;
    pid_t tid;
    int first, second;
};

static void *run(void *arg) {
    struct job *job = arg;
    shim.attach();
    job->tid = (pid_t)syscall(SYS_gettid);
    atomic_store_explicit(&job->begun, true, memory_order_release);
    job->first = job->read(ends[0]);
    shim.clear();
    return NULL;
}

static bool is_parked(pthread_t thread) {
    struct itr_where where;
    return shim.where(thread, &where) == ITR_OK && where.call != NULL && strcmp(where.call, "read") == 0;
}

static void assert_broken(int (*function)(int fd)) {
    struct job job = {.read = function};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, &job), 0);
    while (!is_parked(thread)) {
        sched_yield();
    }
    assert_int_equal(shim.interrupt(thread), ITR_OK);
    pthread_join(thread, NULL);
    assert_int_equal(job.first, ECANCELED);
}

/* Asleep in the kernel. */
static bool sleeps(pid_t tid) {
    char path[64];
    char text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "re");
    bool got = file != NULL && fgets(text, sizeof text, file) != NULL;
    if (file != NULL) {
        fclose(file);
    }
    const char *name_ends = strrchr(text, ')');
    return got && name_ends != NULL && strncmp(name_ends, ") S", 3) == 0;
}

static void await_asleep(const struct job *job) {
    while (!atomic_load_explicit(&job->begun, memory_order_acquire) || !sleeps(job->tid)) {
        sched_yield();
    }
}

/* It reads, and nobody can tell that it waits. */
static void assert_untouched(int (*function)(int fd)) {
    struct job job = {.read = function};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, &job), 0);
    await_asleep(&job);
    assert_false(is_parked(thread));
    assert_int_equal(write(ends[1], "x", 1), 1);
    pthread_join(thread, NULL);
    assert_int_equal(job.first, 0);
}

/* ---- RELRO ------------------------------------------------------------------------------------------------------- */

struct range {
    uintptr_t address, start, end;
};

static int find_relro(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct range *r = arg;
    struct range relro = {0, 0, 0};
    bool here = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + p->p_vaddr;
        here = here || (p->p_type == PT_LOAD && r->address >= start && r->address < start + p->p_memsz);
        if (p->p_type == PT_GNU_RELRO) {
            relro.start = start;
            relro.end = start + p->p_memsz;
        }
    }
    if (here) {
        r->start = relro.start;
        r->end = relro.end;
    }
    return here;
}

/* Whole pages of its RELRO range that can be written. */
static int writable_relro_pages(const struct reader *reader) {
    struct range r = {.address = (uintptr_t)reader->read};
    dl_iterate_phdr(find_relro, &r);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    r.start = (r.start + page - 1) & ~(page - 1);
    r.end &= ~(page - 1);
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, end;
        char mode[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) == 3 && mode[1] == 'w') {
            uintptr_t from = start > r.start ? start : r.start;
            uintptr_t to = end < r.end ? end : r.end;
            found += from < to ? (int)((to - from) / page) : 0;
        }
    }
    fclose(maps);
    return found;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const char *const scenarios[] = {"lazy",       "now",    "relro_partial", "relro_full",
                                        "relro_none", "no_plt", "no_plt_lazy"};
#define N (sizeof scenarios / sizeof *scenarios)
static struct reader readers[N];
static void *before[N];

static void nothing_is_touched_before(void **state) {
    (void)state;
    assert_int_equal(shim.active(), 0);
    for (size_t i = 0; i < N; i++) {
        readers[i] = load(scenarios[i]);
        before[i] = readers[i].address();
    }
    assert_untouched(own_read);
    assert_untouched(readers[0].read);
}

static void every_layout_is_bound(void **state) {
    (void)state;
    assert_true(shim.bind() > 0);
    assert_int_equal(shim.active(), 1);
    for (size_t i = 0; i < N; i++) {
        assert_broken(readers[i].read);
        assert_int_equal(writable_relro_pages(&readers[i]), 0);
    }
    assert_broken(own_read);
}

static void nothing_new_nothing_done(void **state) {
    (void)state;
    assert_int_equal(shim.bind(), 0);
}

static void what_is_loaded_later_needs_another_look(void **state) {
    (void)state;
    struct reader late = load("later");
    assert_untouched(late.read);
    assert_true(shim.bind() > 0);
    assert_broken(late.read);
    /* Gone and back, perhaps at the same place. */
    assert_int_equal(dlclose(late.handle), 0);
    late = load("later");
    assert_true(shim.bind() > 0);
    assert_broken(late.read);
}

static void unbinding_restores_every_slot(void **state) {
    (void)state;
    assert_int_equal(shim.unbind(), ITR_OK);
    assert_int_equal(shim.active(), 0);
    for (size_t i = 0; i < N; i++) {
        assert_ptr_equal(readers[i].address(), before[i]);
        assert_untouched(readers[i].read);
        assert_int_equal(writable_relro_pages(&readers[i]), 0);
    }
    assert_untouched(own_read);
    assert_true(shim.bind() > 0);
    assert_broken(own_read);
}

static ssize_t no_read(int fd, void *buffer, size_t size) {
    (void)fd;
    (void)buffer;
    (void)size;
    return 0;
}

/* As SQLite has one. */
static void a_table_of_functions_is_bound_and_stays_the_programs(void **state) {
    (void)state;
    for (size_t i = 0; i < N; i++) {
        ssize_t (**table)(int, void *, size_t) = symbol(readers[i].handle, "reader_table");
        int (*read_by_table)(int);
        *(void **)(void *)&read_by_table = symbol(readers[i].handle, "reader_read_by_table");
        assert_broken(read_by_table);
        assert_int_equal(shim.unbind(), ITR_OK);
        assert_ptr_equal(*(void **)(void *)table, before[i]);
        assert_untouched(read_by_table);
        table[0] = no_read; /* the program's own */
        assert_true(shim.bind() > 0);
        assert_ptr_equal(table[0], no_read);
        assert_int_equal(shim.unbind(), ITR_OK);
        assert_ptr_equal(table[0], no_read);
        *(void **)(void *)table = before[i];
        assert_true(shim.bind() > 0);
        assert_broken(read_by_table);
    }
}

/* ---- what is being loaded ---------------------------------------------------------------------------------------- */

static _Atomic int binds;

static void bind_now(int sig) {
    (void)sig;
    if (binds % 2 != 0) {
        shim.unbind();
    }
    shim.bind();
    binds++;
}

/* Another bind while the linker is relocating the library; from a handler, which it has called itself. */
static void what_is_being_loaded_is_bound_when_it_is_complete(void **state) {
    (void)state;
    static const char *const layouts[] = {"resolving_relro_partial", "resolving_relro_full", "resolving_relro_none"};
    struct sigaction action = {.sa_handler = bind_now};
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        for (int turn = 0; turn < 4; turn++) {
            int seen = binds;
            struct reader late = load(layouts[i]);
            assert_true(binds > seen);
            shim.bind();
            assert_broken(late.read);
            assert_int_equal(writable_relro_pages(&late), 0);
            assert_int_equal(shim.bind(), 0);
            assert_int_equal(dlclose(late.handle), 0);
        }
    }
}

static void *run_twice(void *arg) {
    struct job *job = arg;
    shim.attach();
    job->tid = (pid_t)syscall(SYS_gettid);
    atomic_store_explicit(&job->begun, true, memory_order_release);
    job->first = job->read(ends[0]);
    job->second = job->read(ends[0]);
    shim.clear();
    return NULL;
}

static void a_thread_that_waits_already_is_covered_from_its_next_call(void **state) {
    (void)state;
    assert_int_equal(shim.unbind(), ITR_OK);
    struct job job = {.read = readers[0].read};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_twice, &job), 0);
    await_asleep(&job);
    assert_true(shim.bind() > 0);
    assert_false(is_parked(thread));
    assert_int_equal(write(ends[1], "x", 1), 1);
    while (!is_parked(thread)) {
        sched_yield();
    }
    assert_int_equal(shim.interrupt(thread), ITR_OK);
    pthread_join(thread, NULL);
    assert_int_equal(job.first, 0);
    assert_int_equal(job.second, ECANCELED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_touched_before),
        cmocka_unit_test(every_layout_is_bound),
        cmocka_unit_test(nothing_new_nothing_done),
        cmocka_unit_test(what_is_loaded_later_needs_another_look),
        cmocka_unit_test(unbinding_restores_every_slot),
        cmocka_unit_test(a_table_of_functions_is_bound_and_stays_the_programs),
        cmocka_unit_test(what_is_being_loaded_is_bound_when_it_is_complete),
        cmocka_unit_test(a_thread_that_waits_already_is_covered_from_its_next_call),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
