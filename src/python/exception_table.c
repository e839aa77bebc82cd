/* Repairs exception tables (3.11+).
 *
 * The compiler leaves some back edges out of the table though the loop they close is in it (CPython issues 108214,
 * 130279, 148278): an exception raised in the edge's own check then escapes the `try` around the loop. The table is
 * read and written here as Objects/exception_handling_notes.txt describes it: per entry start, size, target and
 * depth<<1|lasti, each in 6-bit digits, most significant first, 0x40 on all but the last digit and 0x80 on the first
 * byte of an entry. */
#include "exception_table.h"
#include "opcodes.h"

#if PY_VERSION_HEX >= 0x030B0000

#include <stdbool.h>
#include <string.h>

struct entry {
    int start, end, target, depth_lasti; /* code units; end is exclusive */
};

struct table {
    struct entry *entries;
    Py_ssize_t n;
};

static int read_number(const unsigned char **at, const unsigned char *end) {
    int value = 0;
    while (*at < end) {
        unsigned char byte = *(*at)++;
        value = value << 6 | (byte & 0x3f);
        if ((byte & 0x40) == 0) {
            break;
        }
    }
    return value;
}

static void read_entry(const unsigned char **at, const unsigned char *end, struct entry *e) {
    e->start = read_number(at, end);
    e->end = e->start + read_number(at, end);
    e->target = read_number(at, end);
    e->depth_lasti = read_number(at, end);
}

static bool read_table(PyObject *bytes, struct table *table, Py_ssize_t extra) {
    const unsigned char *at = (const unsigned char *)PyBytes_AS_STRING(bytes);
    const unsigned char *end = at + PyBytes_GET_SIZE(bytes);
    table->n = 0;
    table->entries = PyMem_Malloc((size_t)(PyBytes_GET_SIZE(bytes) / 4 + 1 + extra) * sizeof *table->entries);
    if (table->entries == NULL) {
        PyErr_NoMemory();
        return false;
    }
    while (at < end) {
        read_entry(&at, end, &table->entries[table->n++]);
    }
    return true;
}

struct itr_handlers itr_handlers_of(const PyCodeObject *code) {
    const unsigned char *at = (const unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    return (struct itr_handlers){at, at + PyBytes_GET_SIZE(code->co_exceptiontable), {-1, -1, -1, 0, 0}};
}

const struct itr_handler *itr_handler_at(struct itr_handlers *handlers, int unit) {
    while (handlers->now.end <= unit && handlers->at < handlers->end) {
        struct entry e;
        read_entry(&handlers->at, handlers->end, &e);
        handlers->now = (struct itr_handler){e.start, e.end, e.target, e.depth_lasti >> 1, e.depth_lasti & 1};
    }
    return unit >= handlers->now.start && unit < handlers->now.end ? &handlers->now : NULL;
}

static const struct entry *entry_at(const struct table *table, int unit) {
    for (Py_ssize_t i = 0; i < table->n; i++) {
        if (unit >= table->entries[i].start && unit < table->entries[i].end) {
            return &table->entries[i];
        }
    }
    return NULL;
}

/* Is `outer` the handler of something that encloses `inner`? A handler is itself covered by what encloses its `try`. */
static bool encloses(const struct table *table, const struct entry *outer, const struct entry *inner) {
    for (int i = 0; inner != NULL && i < 100; i++) {
        inner = entry_at(table, inner->target);
        if (inner != NULL && inner->target == outer->target) {
            return true;
        }
    }
    return false;
}

static unsigned char *write_number(unsigned char *at, int value, unsigned char first) {
    int digits = 1;
    while (digits < 5 && value >> (6 * digits) != 0) {
        digits++;
    }
    for (int i = digits - 1; i >= 0; i--) {
        *at++ = (unsigned char)(((value >> (6 * i)) & 0x3f) | (i > 0 ? 0x40 : 0) | first);
        first = 0;
    }
    return at;
}

static PyObject *write_table(const struct table *table) {
    unsigned char *buffer = PyMem_Malloc((size_t)table->n * 20 + 1);
    if (buffer == NULL) {
        return PyErr_NoMemory();
    }
    unsigned char *at = buffer;
    for (Py_ssize_t i = 0; i < table->n; i++) {
        const struct entry *e = &table->entries[i];
        at = write_number(at, e->start, 0x80);
        at = write_number(at, e->end - e->start, 0);
        at = write_number(at, e->target, 0);
        at = write_number(at, e->depth_lasti, 0);
    }
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)buffer, at - buffer);
    PyMem_Free(buffer);
    return bytes;
}

/* Put {unit, unit + 1} -> like `handler` into the table, splitting what covered it. The table stays sorted by start, as
 * the look-up's binary search wants. */
static void insert(struct table *table, int unit, struct entry handler) {
    struct entry *e = table->entries;
    Py_ssize_t i = 0;
    while (i < table->n && e[i].end <= unit) {
        i++;
    }
    struct entry fresh = {unit, unit + 1, handler.target, handler.depth_lasti};
    struct entry pieces[3];
    int n = 0;
    Py_ssize_t replaced = 0;
    if (i < table->n && e[i].start <= unit) {
        struct entry old = e[i];
        replaced = 1;
        if (old.start < unit) {
            pieces[n++] = (struct entry){old.start, unit, old.target, old.depth_lasti};
        }
        pieces[n++] = fresh;
        if (unit + 1 < old.end) {
            pieces[n++] = (struct entry){unit + 1, old.end, old.target, old.depth_lasti};
        }
    } else {
        pieces[n++] = fresh;
    }
    memmove(&e[i + n], &e[i + replaced], (size_t)(table->n - i - replaced) * sizeof *e);
    memcpy(&e[i], pieces, (size_t)n * sizeof *e);
    table->n += n - replaced;
}

/* hash(code) covers the table, and code objects are dict keys in tools: the new bytes carry the old one's cached hash.
 */
static void keep_hash(PyObject *from, PyObject *to) {
    Py_hash_t hash = PyObject_Hash(from);
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
    ((PyBytesObject *)to)->ob_shash = hash;
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}

static int put_table(PyCodeObject *code, const struct table *table) {
    PyObject *repaired = write_table(table);
    if (repaired == NULL) {
        return -1;
    }
    keep_hash(code->co_exceptiontable, repaired);
    code->co_exceptiontable = repaired; /* the old bytes stay alive: a look-up may be reading them */
    return 0;
}

/* Units of cache behind JUMP_BACKWARD: the jump counts from behind them. */
static int caches_after_jump(PyObject *bytes, int unit) {
    int units = 0;
    Py_ssize_t n = PyBytes_GET_SIZE(bytes) / 2;
    while (unit + 1 + units < n && PyBytes_AS_STRING(bytes)[(unit + 1 + units) * 2] == 0) { /* CACHE is opcode 0 */
        units++;
    }
    return units;
}

#if PY_VERSION_HEX < 0x030D0000
static bool harmless[256];

static bool never_raises(unsigned char op) { return op == 0 || harmless[op]; /* 0: a cache */ }
#endif

int itr_table_setup(PyObject *opmap) {
#if PY_VERSION_HEX < 0x030D0000
    static const char *const names[] = {"NOP",          "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT",
                                        "RETURN_CONST", "RETURN_VALUE", "STORE_FAST",    "POP_TOP"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int op = opcode_number(opmap, names[i]);
        if (op >= 0 && op < 256) {
            harmless[op] = true;
        }
    }
#else
    (void)opmap;
#endif
    return PyErr_Occurred() ? -1 : 0;
}

int itr_repair_table(PyCodeObject *code, PyObject *bytes, int lasti, int arg) {
    PyObject *old = code->co_exceptiontable;
    if (old == NULL || PyBytes_GET_SIZE(old) == 0) {
        return 0; /* no handler anywhere in this function */
    }
    int unit = lasti / 2;
    int caches = caches_after_jump(bytes, unit);
    int target = unit + 1 + caches - arg;
    struct table table;
    if (!read_table(old, &table, 2 * (2 + caches))) {
        return -1;
    }
    const struct entry *edge = entry_at(&table, unit);
    const struct entry *loop = target >= 0 ? entry_at(&table, target) : NULL;
    bool covered = false;
#if PY_VERSION_HEX < 0x030D0000
    /* Up to 3.12 the edge jumps before it checks, and the handler is looked up at the unit in front of the target.
     * Where a handler ends and jumps to the code behind its `try`, that is the last one of the `try`: an exception
     * would be caught by the very handler that has just ended. The next check is as near. Where no handler covers it,
     * it is given the loop's; but only if nothing else is ever looked up there. */
    const struct entry *proper = edge != NULL ? edge : loop;
    const struct entry *found = target > 0 ? entry_at(&table, target - 1) : NULL;
    if (found != NULL && (proper == NULL || (found->target != proper->target && !encloses(&table, found, proper)))) {
        PyMem_Free(table.entries);
        return -1;
    }
    if (found == NULL && proper != NULL && target > 0) {
        if (!never_raises((unsigned char)PyBytes_AS_STRING(bytes)[(target - 1) * 2])) {
            PyMem_Free(table.entries);
            return -1;
        }
        covered = true;
        struct entry handler = *proper;
        insert(&table, target - 1, handler);
        edge = entry_at(&table, unit); /* the entries have moved */
        loop = entry_at(&table, target);
    }
#endif
    if (loop != NULL && (edge == NULL || (edge->target != loop->target && encloses(&table, edge, loop)))) {
        /* The look-up takes the last unit of the instruction, so its caches are covered as well. */
        struct entry handler = *loop;
        for (int at = unit; at <= unit + caches; at++) {
            insert(&table, at, handler);
        }
        covered = true;
    }
    int result = covered ? put_table(code, &table) : 0;
    PyMem_Free(table.entries);
    return result;
}

int itr_cover_head(PyCodeObject *code, int head, int edge) {
    struct table table;
    if (PyBytes_GET_SIZE(code->co_exceptiontable) == 0) {
        return 0;
    }
    if (!read_table(code->co_exceptiontable, &table, 2)) {
        return -1;
    }
    const struct entry *handler = entry_at(&table, edge / 2);
    int result = 0;
    if (handler != NULL && entry_at(&table, head / 2) == NULL) {
        insert(&table, head / 2, *handler);
        result = put_table(code, &table);
    }
    PyMem_Free(table.entries);
    return result;
}

#else
typedef int itr_no_exception_tables;
#endif
