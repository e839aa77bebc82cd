/* Linux: rebinding, for a process that was not preloaded.
 *
 * An object calls libc through a slot that the dynamic linker fills: JUMP_SLOT for a call through the PLT, GLOB_DAT for
 * -fno-plt and for function pointers. Every such slot whose symbol is a row of calls.def is pointed at our wrapper. The
 * slot's old value is never called: it may be the lazy resolver, which would bind the slot again. The real functions
 * come from dlsym, and so do the values that unbinding stores, so nothing has to be remembered and an object that was
 * unloaded meanwhile does no harm. Tables of functions (SQLite's of system calls) are slots too, but the program's own
 * to change: they are touched only while the real function, or our wrapper, is what they hold.
 *
 * An object that another thread is loading is left alone until the linker has relocated it (settled.c): what was stored
 * before would be added to, or overwritten, and a page that we close again is one that the linker is writing to.
 *
 * dlopen is not hooked (the hook would lose the caller's RPATH); bind again after something was loaded. The linker's
 * counters tell whether there is anything to do. */
#include "late_bind.h"

#include "interruptible.h"
#include "monitor.h"
#include "preload.h"
#include "settled.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#define JUMP_SLOT R_X86_64_JUMP_SLOT
#define GLOB_DAT R_X86_64_GLOB_DAT
#define ADDRESS R_X86_64_64
#elif defined(__aarch64__)
#define JUMP_SLOT R_AARCH64_JUMP_SLOT
#define GLOB_DAT R_AARCH64_GLOB_DAT
#define ADDRESS R_AARCH64_ABS64
#endif

/* One pass at a time. Held across dl_iterate_phdr, which takes the linker's lock of its list, and across fork, whose
 * child would never get that one if somebody held it. Nobody waits for ours with the linker's: constructors, which may
 * call us, run without it. What is done for each object calls neither the linker nor anybody else (no dlsym: that takes
 * the lock that is held while constructors run). */
static pthread_mutex_t bind_lock = PTHREAD_MUTEX_INITIALIZER;
static bool wanted;
static int bound;
static unsigned long long seen_adds, seen_subs;
static bool complete; /* ... and everything that was there then is bound */

bool itr_late_wanted(void) { return wanted; }
int itr_late_bound(void) { return __atomic_load_n(&bound, __ATOMIC_RELAXED); }

bool itr_late_hold(void) {
    if (pthread_mutex_trylock(&bind_lock) != 0) {
        return false;
    }
    bool held = wanted || itr_preloaded();
    if (!held) {
        pthread_mutex_unlock(&bind_lock);
    }
    return held;
}

void itr_late_release(void) { pthread_mutex_unlock(&bind_lock); }

void itr_late_before_fork(void) { pthread_mutex_lock(&bind_lock); }

void itr_late_after_fork(bool child) {
    if (child) {
        pthread_mutex_init(&bind_lock, NULL);
    } else {
        pthread_mutex_unlock(&bind_lock);
    }
}

#ifdef JUMP_SLOT

typedef void (*any_function)(void);

static const struct row {
    const char *name;
    any_function wrapper;
    any_function *real;
} rows[] = {
#define ITR_ROW(ret, name, body, class_, fd, params, args)                                                             \
    {#name, (any_function)itr_call_##name, (any_function *)(void *)&itr_real.name},
#include "calls.def"
#undef ITR_ROW
};
#define N_ROWS (sizeof rows / sizeof *rows)

/* Names to rows: most symbols are not ours, and a process has tens of thousands. */
#define INDEX 1024u
static uint8_t index_of[INDEX]; /* row + 1 */

static unsigned hash(const char *name) {
    unsigned h = 5381;
    while (*name != '\0') {
        h = h * 33u + (unsigned char)*name++;
    }
    return h % INDEX;
}

static void fill_index(void) {
    for (unsigned i = 0; i < N_ROWS; i++) {
        unsigned at = hash(rows[i].name);
        while (index_of[at] != 0) {
            at = (at + 1) % INDEX;
        }
        index_of[at] = (uint8_t)(i + 1);
    }
}

static const struct row *find_row(const char *name) {
    for (unsigned at = hash(name); index_of[at] != 0; at = (at + 1) % INDEX) {
        const struct row *row = &rows[index_of[at] - 1];
        if (strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}

/* A function of CPython's (PyErr_CheckSignals), for extension modules only. */
static struct {
    const char *name;
    any_function wrapper, real;
} too;

void itr_late_bind_too(const char *name, void (*wrapper)(void), void (*real)(void)) {
    pthread_mutex_lock(&bind_lock);
    too.name = name;
    too.wrapper = wrapper;
    too.real = real;
    complete = false; /* look at every object again */
    pthread_mutex_unlock(&bind_lock);
}

/* ---- one object
 * -------------------------------------------------------------------------------------------------------------- */

struct object {
    uintptr_t base, size;
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * tables[2];
    size_t counts[2];
    uintptr_t relro, relro_end;
};

struct pass {
    bool bind;      /* else: unbind */
    bool libc_;     /* the rows of calls.def; not when they reach us anyway */
    bool extension; /* the object at hand is an extension module, or a library of one's */
    bool settled;   /* ... and complete */
    bool loading;   /* one was not: look again */
    size_t objects, settled_objects;
    int changed, total;
    uintptr_t libc, self;
    unsigned long long adds, subs;
};

/* glibc relocates the dynamic section's pointers in place, musl does not. */
static uintptr_t address(const struct object *o, ElfW(Addr) value) { return value < o->base ? o->base + value : value; }

static bool read_object(const struct dl_phdr_info *info, struct object *o) {
    const ElfW(Dyn) *dynamic = NULL;
    memset(o, 0, sizeof *o);
    o->base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && segment->p_vaddr + segment->p_memsz > o->size) {
            o->size = segment->p_vaddr + segment->p_memsz;
        } else if (segment->p_type == PT_DYNAMIC) {
            dynamic = (const void *)(o->base + segment->p_vaddr);
        } else if (segment->p_type == PT_GNU_RELRO) {
            o->relro = o->base + segment->p_vaddr;
            o->relro_end = o->relro + segment->p_memsz;
        }
    }
    bool rela = true;
    for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
        switch (dynamic->d_tag) {
        case DT_SYMTAB:
            o->symbols = (const void *)address(o, dynamic->d_un.d_ptr);
            break;
        case DT_STRTAB:
            o->strings = (const void *)address(o, dynamic->d_un.d_ptr);
            break;
        case DT_JMPREL:
            o->tables[0] = (const void *)address(o, dynamic->d_un.d_ptr);
            break;
        case DT_PLTRELSZ:
            o->counts[0] = dynamic->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_PLTREL:
            rela = dynamic->d_un.d_val == DT_RELA;
            break;
        case DT_RELA:
            o->tables[1] = (const void *)address(o, dynamic->d_un.d_ptr);
            break;
        case DT_RELASZ:
            o->counts[1] = dynamic->d_un.d_val / sizeof(ElfW(Rela));
            break;
        default:
            break;
        }
    }
    return o->symbols != NULL && o->strings != NULL && rela;
}

/* A slot in the RELRO range lies in read-only pages: made writable for the store alone. False: it holds something else
 * than `expected` by now (a thread has just called through it for the first time), or cannot be written. */
static bool store(const struct object *o, any_function *slot, any_function expected, any_function value) {
    uintptr_t at = (uintptr_t)slot;
    bool readonly = at >= o->relro && at < o->relro_end;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *start = (void *)(at & ~(page - 1));
    /* Partial RELRO ends in the middle of a page, and the linker protects whole pages below the end only. */
    readonly = readonly && (at & ~(page - 1)) + page <= ((o->relro_end + page - 1) & ~(page - 1));
    if (readonly && mprotect(start, page, PROT_READ | PROT_WRITE) != 0) {
        return false;
    }
    bool done = __atomic_compare_exchange_n(slot, &expected, value, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    bool whole = (at & ~(page - 1)) + page <= (o->relro_end & ~(page - 1));
    if (readonly && whole) {
        (void)mprotect(start, page, PROT_READ);
    }
    return done;
}

/* In what is being loaded, a slot that is still as it is in the file, or empty though its symbol must be there. */
static bool is_to_come(const struct pass *pass, const struct object *o, any_function now, bool weak) {
    return !pass->settled && (now == NULL ? !weak : o->base != 0 && (uintptr_t)now < o->size);
}

struct slot {
    any_function *at;
    bool table; /* of the program's own */
    bool weak;
    bool count;
};

static void rebind(struct pass *pass, const struct object *o, const struct slot *slot, any_function wrapper,
                   any_function real) {
    for (int i = 0; i < 2; i++) { /* twice: the linker may be binding it lazily just now */
        any_function now = __atomic_load_n(slot->at, __ATOMIC_ACQUIRE);
        if (is_to_come(pass, o, now, slot->weak)) {
            pass->loading = true;
            return;
        }
        if (now == (pass->bind ? wrapper : real)) {
            pass->total += pass->bind && slot->count;
            return;
        }
        if (now == NULL /* a weak reference that the program tests */ || (!pass->bind && now != wrapper) ||
            (slot->table && now != wrapper && now != real)) {
            return;
        }
        if (store(o, slot->at, now, pass->bind ? wrapper : real)) {
            pass->changed += slot->count;
            pass->total += pass->bind && slot->count;
            return;
        }
    }
}

static void visit_slot(struct pass *pass, const struct object *o, const ElfW(Rela) * relocation) {
    unsigned long type = ELF64_R_TYPE(relocation->r_info);
    if (type != JUMP_SLOT && type != GLOB_DAT && (type != ADDRESS || relocation->r_addend != 0)) {
        return;
    }
    const ElfW(Sym) *symbol = &o->symbols[ELF64_R_SYM(relocation->r_info)];
    if (symbol->st_shndx != SHN_UNDEF) {
        return; /* the object's own function of that name */
    }
    const char *name = o->strings + symbol->st_name;
    struct slot slot = {.at = (any_function *)(o->base + relocation->r_offset),
                        .table = type == ADDRESS,
                        .weak = ELF64_ST_BIND(symbol->st_info) == STB_WEAK};
    if (pass->extension && too.name != NULL && strcmp(name, too.name) == 0) {
        rebind(pass, o, &slot, too.wrapper, too.real);
        return;
    }
    const struct row *row = pass->libc_ ? find_row(name) : NULL;
    if (row != NULL && *row->real != NULL) {
        slot.count = true;
        rebind(pass, o, &slot, row->wrapper, *row->real);
    }
}

static bool contains(const struct dl_phdr_info *info, uintptr_t address_) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && address_ >= start && address_ < start + segment->p_memsz) {
            return true;
        }
    }
    return false;
}

/* The linker, the vdso, libc itself, ourselves; and the sanitizers' run-times, whose own wrappers call libc. */
static bool is_left_alone(const struct pass *pass, const struct dl_phdr_info *info) {
    static const char *const names[] = {"ld-linux", "ld-musl",  "linux-vdso", "linux-gate", "libasan",
                                        "libtsan",  "libubsan", "liblsan",    "libpthread"};
    if (contains(info, pass->self) || contains(info, pass->libc)) {
        return true;
    }
    const char *slash = info->dlpi_name == NULL ? NULL : strrchr(info->dlpi_name, '/');
    const char *name = slash != NULL ? slash + 1 : info->dlpi_name == NULL ? "" : info->dlpi_name;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strncmp(name, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* Neither the interpreter nor one of its own modules: these know how to treat a broken call without being told. */
static bool is_extension(const struct dl_phdr_info *info) {
    const char *name = info->dlpi_name;
    return name != NULL && name[0] != '\0' && strstr(name, "/libpython") == NULL &&
           strstr(name, "/lib-dynload/") == NULL;
}

static int visit_object(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct pass *pass = arg;
    struct object o;
    pass->adds = info->dlpi_adds;
    pass->subs = info->dlpi_subs;
    if (pass->objects == 0) {
        pass->settled_objects = itr_settled_count(info->dlpi_subs);
    }
    pass->settled = pass->objects++ < pass->settled_objects;
    pass->extension = is_extension(info);
    if ((pass->libc_ || pass->extension) && !is_left_alone(pass, info) && read_object(info, &o)) {
        if (!pass->settled && itr_relro_is_open(o.relro, o.relro_end)) {
            pass->loading = true;
            return 0;
        }
        for (int table = 0; table < 2; table++) {
            for (size_t i = 0; o.tables[table] != NULL && i < o.counts[table]; i++) {
                visit_slot(pass, &o, &o.tables[table][i]);
            }
        }
    }
    return 0;
}

static int only_counters(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct pass *pass = arg;
    pass->adds = info->dlpi_adds;
    pass->subs = info->dlpi_subs;
    return 1; /* the first object is enough */
}

static uintptr_t libc; /* an address in it */

void itr_late_start(void) {
    libc = (uintptr_t)dlsym(RTLD_DEFAULT, "__libc_start_main"); /* which nobody wraps */
    itr_settled_start();
}

static struct pass new_pass(bool bind) {
    return (struct pass){.bind = bind, .libc_ = !itr_preloaded(), .libc = libc, .self = (uintptr_t)&itr_late_bind};
}

int itr_late_bind(void) {
    if (itr_preloaded() && too.name == NULL) {
        return 0;
    }
    struct pass pass = new_pass(true);
    pthread_mutex_lock(&bind_lock);
    if (index_of[hash(rows[0].name)] == 0) {
        fill_index();
    }
    wanted = true;
    dl_iterate_phdr(only_counters, &pass);
    if (pass.adds != seen_adds || pass.subs != seen_subs || !complete) {
        dl_iterate_phdr(visit_object, &pass);
        seen_adds = pass.adds;
        seen_subs = pass.subs;
        complete = !pass.loading;
        itr_settled_listed(pass.objects, pass.subs);
        __atomic_store_n(&bound, pass.total, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&bind_lock);
    if (pass.changed > 0) {
        itr_monitor_rush();
    }
    return pass.changed;
}

void itr_late_unbind(void) {
    struct pass pass = new_pass(false);
    pthread_mutex_lock(&bind_lock);
    if (wanted) {
        dl_iterate_phdr(visit_object, &pass);
        wanted = complete = false;
        __atomic_store_n(&bound, 0, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&bind_lock);
}

#else /* a processor whose relocation types nobody has looked up */

void itr_late_start(void) {}
int itr_late_bind(void) { return itr_preloaded() ? 0 : -ENOSYS; }
void itr_late_bind_too(const char *name, void (*wrapper)(void), void (*real)(void)) {
    (void)name;
    (void)wrapper;
    (void)real;
}
void itr_late_unbind(void) {}

#endif
