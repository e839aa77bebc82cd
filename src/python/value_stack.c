/* What each instruction does to the value stack, as far as what calls have given is concerned.
 *
 * Two bits for each value: whether it is, or was made from, a call's result ("held"), and whether it is what a
 * comprehension has collected so far ("kept": it goes with the comprehension, whatever cuts that, and counts as held
 * when the loop is over). CPython says by how much each instruction changes the depth; of most, how many they take and
 * give follows from that, for nearly all give one value. Iterators, awaitables and exits are not held: a loop, `await`
 * or `with` has them on the stack all the time. */
#include "value_stack.h"
#include "opcodes.h"

#include <string.h>

/* What an instruction leaves on the stack. */
enum kind {
    DERIVES,   /* one value (or more) made from what it takes; also the unknown */
    CONSUMES,  /* nothing */
    CLEAN,     /* nothing that a call has given */
    GIVES,     /* a call's result */
    STARTS,    /* an iterator or awaitable made from one value, which 3.15 may leave below it */
    UNPACKS,   /* the parts of one value */
    COLLECTS,  /* nothing, but puts what it takes into a value below */
    COPIES,    /* COPY(n), DUP_TOP */
    COPIES_2,  /* DUP_TOP_TWO */
    SWAPS,     /* SWAP(n), ROT_TWO */
    ROTATES,   /* ROT_THREE, ROT_FOUR, ROT_N */
    ENTERS,    /* `with`: an exit, and what __enter__() gave */
    ENTERS_2,  /* SETUP_ASYNC_WITH: what __aenter__() gave is there already */
    LOOKS_UP,  /* LOAD_SPECIAL */
    ITERATES,  /* FOR_ITER */
    SENDS,     /* SEND */
    YIELDS,    /* YIELD_VALUE */
    ENDS_LOOP, /* END_ASYNC_FOR */
    NOTHING    /* leaves the stack alone */
};
enum jump { NO_JUMP, FORWARD, BACKWARD, ABSOLUTE };

static struct {
    unsigned char kind, jump;
    bool ends; /* what follows is reached from elsewhere only */
    int n;     /* of those that say it by their names */
} ops[256];
static int op_call_3_11;
static int iterator_slots; /* 3.15: two */

#define UNIT 2 /* bytes */

static bool begins(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

static const struct {
    const char *prefix;
    enum kind kind;
} kinds[] = {
    /* the first that fits */
    {"STORE_FAST_LOAD_FAST", CLEAN},
    {"STORE_", CONSUMES},
    {"DELETE_", CONSUMES},
    {"POP_", CONSUMES},
    {"JUMP", CONSUMES},
    {"RETURN_GENERATOR", DERIVES},
    {"RETURN_", CONSUMES},
    {"RAISE_VARARGS", CONSUMES},
    {"RERAISE", CONSUMES},
    {"PRINT_EXPR", CONSUMES},
    {"GEN_START", CONSUMES},
    {"END_FOR", CONSUMES},
    {"IMPORT_STAR", CONSUMES},
    {"IMPORT_", CLEAN},
    {"GET_LEN", CLEAN},
    {"GET_", STARTS},
    {"CALL_INTRINSIC", DERIVES},
    {"CALL", GIVES},
    {"YIELD_FROM", GIVES},
    {"UNPACK_", UNPACKS},
    {"LIST_TO_TUPLE", DERIVES},
    {"LIST_", COLLECTS},
    {"SET_ADD", COLLECTS},
    {"SET_UPDATE", COLLECTS},
    {"MAP_ADD", COLLECTS},
    {"DICT_", COLLECTS},
    {"COPY_", DERIVES},
    {"COPY", COPIES},
    {"DUP_TOP_TWO", COPIES_2},
    {"DUP_TOP", COPIES},
    {"SWAP", SWAPS},
    {"ROT_TWO", SWAPS},
    {"ROT_", ROTATES},
    {"BEFORE_", ENTERS},
    {"SETUP_WITH", ENTERS},
    {"SETUP_ASYNC_WITH", ENTERS_2},
    {"LOAD_SPECIAL", LOOKS_UP},
    {"FOR_ITER", ITERATES},
    {"SEND", SENDS},
    {"YIELD_VALUE", YIELDS},
    {"END_ASYNC_FOR", ENDS_LOOP},
    {"PRECALL", NOTHING},
    {"KW_NAMES", NOTHING},
    {"EXTENDED_ARG", NOTHING},
};

static void describe(int op, const char *name) {
    static const char *const ends[] = {"RETURN_VALUE", "RETURN_CONST",  "RAISE_VARARGS", "RERAISE",
                                       "JUMP_FORWARD", "JUMP_ABSOLUTE", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (begins(name, kinds[i].prefix)) {
            ops[op].kind = (unsigned char)kinds[i].kind;
            break;
        }
    }
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        ops[op].ends = ops[op].ends || strcmp(name, ends[i]) == 0;
    }
    if (strstr(name, "BACKWARD") != NULL) {
        ops[op].jump = BACKWARD;
    } else if (strstr(name, "JUMP") != NULL && PY_VERSION_HEX < 0x030B0000 && strcmp(name, "JUMP_FORWARD") != 0) {
        ops[op].jump = ABSOLUTE;
    } else if (strstr(name, "JUMP") != NULL || strcmp(name, "FOR_ITER") == 0 || strcmp(name, "SEND") == 0 ||
               strcmp(name, "SETUP_FINALLY") == 0 || strcmp(name, "SETUP_WITH") == 0 ||
               strcmp(name, "SETUP_ASYNC_WITH") == 0) {
        ops[op].jump = FORWARD;
    }
    ops[op].n = strcmp(name, "DUP_TOP") == 0     ? 1
                : strcmp(name, "ROT_TWO") == 0   ? 2
                : strcmp(name, "ROT_THREE") == 0 ? 3
                : strcmp(name, "ROT_FOUR") == 0  ? 4
                                                 : 0;
}

int itr_stack_setup(PyObject *opmap) {
    PyObject *key, *value;
    Py_ssize_t at = 0;
    memset(ops, 0, sizeof ops);
    while (PyDict_Next(opmap, &at, &key, &value)) {
        long op = PyLong_AsLong(value);
        const char *name = PyUnicode_AsUTF8(key);
        if (name == NULL) {
            return -1;
        }
        if (op >= 0 && op < 256) {
            describe((int)op, name);
        }
    }
    op_call_3_11 = opcode_number(opmap, "PRECALL") >= 0 ? opcode_number(opmap, "CALL") : -1;
    iterator_slots = 1 + PyCompile_OpcodeStackEffectWithJump(opcode_number(opmap, "GET_ITER"), 0, 0);
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- the stack */

static uint64_t bit(int at) { return at < 0 ? 0 : (uint64_t)1 << (at < 63 ? at : 63); }

/* All bits below that of `depth`. */
static uint64_t below(int depth) { return depth <= 0 ? 0 : depth > 63 ? ~(uint64_t)0 : ((uint64_t)1 << depth) - 1; }

static void put(struct itr_stack *s, int at, bool held, bool kept) {
    s->held = held ? s->held | bit(at) : at < 63 ? s->held & ~bit(at) : s->held;
    s->kept = kept ? s->kept | bit(at) : at < 63 ? s->kept & ~bit(at) : s->kept;
}

static bool is_held(const struct itr_stack *s, int at) { return (s->held & bit(at)) != 0; }
static bool is_kept(const struct itr_stack *s, int at) { return (s->kept & bit(at)) != 0; }

void itr_stack_cut(struct itr_stack *s, int depth) {
    s->depth = depth < 0 ? 0 : depth;
    s->held &= below(s->depth);
    s->kept &= below(s->depth);
}

/* The `n` uppermost values are replaced by others, so that the depth changes by `effect`. */
static void replace(struct itr_stack *s, int n, int effect, bool held, bool kept) {
    int depth = s->depth + effect;
    int from = s->depth - (n < 0 ? 0 : n);
    itr_stack_cut(s, from);
    for (int at = s->depth; at < depth; at++) {
        put(s, at, held, kept);
    }
    s->depth = depth < 0 ? 0 : depth;
}

static void derive(struct itr_stack *s, int n, int effect) {
    uint64_t taken = ~below(s->depth - n);
    replace(s, n, effect, n > 0 && (s->held & taken) != 0, n > 0 && (s->kept & taken) != 0);
}

static void swap(struct itr_stack *s, int a, int b) {
    struct itr_stack old = *s;
    put(s, a, is_held(&old, b), is_kept(&old, b));
    put(s, b, is_held(&old, a), is_kept(&old, a));
}

/* What was collected is a value like others now. */
static void finish(struct itr_stack *s, int at) {
    if (is_kept(s, at)) {
        put(s, at, true, false);
    }
}

static int effect_of(const struct itr_instruction *i, bool jump) {
    if (i->op == op_call_3_11) { /* CPython splits it between PRECALL and CALL; really all of it happens here */
        return -1 - i->arg;
    }
    return PyCompile_OpcodeStackEffectWithJump(i->op, i->arg, jump);
}

bool itr_stack_apply(struct itr_stack *s, const struct itr_instruction *i, bool jump) {
    int n = ops[i->op].n != 0 ? ops[i->op].n : i->arg;
    if (ops[i->op].kind == NOTHING) {
        return true;
    }
    int effect = effect_of(i, jump);
    if (effect == PY_INVALID_STACK_EFFECT) {
        return false;
    }
    int top = s->depth - 1;
    switch ((enum kind)ops[i->op].kind) {
    case CONSUMES:
        itr_stack_cut(s, s->depth + effect);
        break;
    case CLEAN:
        replace(s, 1 - effect, effect, false, false);
        break;
    case GIVES:
        replace(s, 1 - effect, effect, true, false);
        break;
    case STARTS:
        put(s, top, false, false);
        replace(s, 0, effect, false, false);
        break;
    case UNPACKS:
        derive(s, 1, effect);
        break;
    case COLLECTS: {
        /* The first below is a display's; one behind an iterator is a comprehension's, and of what it collects nothing
         * is known: it may have been in a variable of the comprehension's. */
        bool held = ((s->held | s->kept) & ~below(s->depth + effect)) != 0;
        itr_stack_cut(s, s->depth + effect);
        int at = s->depth - i->arg;
        put(s, at, is_held(s, at) || (held && i->arg == 1), is_kept(s, at) || i->arg > 1);
        break;
    }
    case COPIES:
        replace(s, 0, 1, is_held(s, s->depth - n), is_kept(s, s->depth - n));
        break;
    case COPIES_2:
        replace(s, 0, 1, is_held(s, top - 1), is_kept(s, top - 1));
        replace(s, 0, 1, is_held(s, top), is_kept(s, top));
        break;
    case SWAPS:
        swap(s, top, s->depth - n);
        break;
    case ROTATES:
        for (int at = top; at > s->depth - n; at--) {
            swap(s, at, at - 1);
        }
        break;
    case ENTERS:
        put(s, top, false, false);
        replace(s, 0, effect, !jump, false);
        break;
    case ENTERS_2:
        if (jump) {
            put(s, top, false, false);
        }
        replace(s, 0, effect, false, false);
        break;
    case LOOKS_UP:
        if ((i->arg & 1) != 0) { /* __exit__, which stays as long as the block does */
            put(s, top, false, false);
        }
        derive(s, 1, effect);
        break;
    case ITERATES:
        replace(s, 0, effect, !jump, false);
        if (jump) {
            finish(s, top - iterator_slots);
        }
        break;
    case SENDS:
        replace(s, 1 - effect, effect, jump, false);
        break;
    case YIELDS: /* what `yield from` and `await` are sent they pass on */
        replace(s, 1, effect, i->resumes < 0 || (i->resumes & 3) == 1, false);
        break;
    case ENDS_LOOP:
        itr_stack_cut(s, s->depth + effect);
        finish(s, s->depth - 1);
        break;
    case DERIVES:
        derive(s, 1 - effect, effect);
        break;
    case NOTHING:
        break;
    }
    return true;
}

int itr_stack_target(const struct itr_instruction *i, int next) {
    switch ((enum jump)ops[i->op].jump) {
    case BACKWARD:
        return next - i->arg;
    case FORWARD:
        return next + (PY_VERSION_HEX < 0x030A0000 ? i->arg / UNIT : i->arg);
    case ABSOLUTE:
        return PY_VERSION_HEX < 0x030A0000 ? i->arg / UNIT : i->arg;
    case NO_JUMP:
        break;
    }
    return -1;
}

bool itr_stack_ends(int op) { return ops[op].ends; }
