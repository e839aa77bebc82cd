/* A table of blocking calls, each with what makes it wait and what lets it go on, and the ways to run such a table. */
#ifndef TESTS_ROWS_H
#define TESTS_ROWS_H

#include "support.h"

#include <semaphore.h>

struct fixture {
    const char *name; /* the function's; call by dlsym for those without a prototype */
    int a[2], b[2];   /* descriptors; -1 */
    int id;           /* SysV */
    pid_t child;
    sem_t sem;
    pthread_t thread; /* the worker's */
    char path[64];
    char byte;
    bool quick;      /* sleeps: make it short */
    int64_t started; /* of the last call */
    size_t filled;   /* bytes put in to make it full */
    size_t drained;  /* bytes got out of it */
    size_t done;     /* calls that completed */
    long result;
    int error;
    void (*undo)(struct fixture *);
};

struct row {
    const char *name;
    void (*setup)(struct fixture *);
    long (*call)(struct fixture *);
    void (*satisfy)(struct fixture *); /* lets the call that waits, or the next one, complete */
    bool (*verify)(struct fixture *);  /* a call completed: is its result right? Prepare for the next */
    unsigned flags;
    const char *variant;   /* what is special, for the log */
    const char *announced; /* the call that itr_where() names, when it is not `name` */
};

/* flags */
#define GIVES_ERROR 1u    /* reports by its result, errno stays */
#define GIVES_REST 2u     /* sleep() */
#define BY_ITSELF 4u      /* completes by itself, when `quick` */
#define ENTRY_ONLY 8u     /* cannot be parked at will; an interrupt that is pending already fails it */
#define NOT_BEFORE 16u    /* cannot be satisfied before it waits */
#define IGNORES_EINTR 32u /* libc repeats it when a handler of the program's has run */
#define ENDS_BY_EINTR 64u /* -1/EINTR is its success */

enum way {
    BREAK,          /* attached: interrupted, it fails with ECANCELED; nothing consumed; goes on working */
    MASKED,         /* attached, masked: not broken; the pop breaks the next */
    PLAIN,          /* not attached: ends with EINTR for the program's own signal */
    ATTACHED_PLAIN, /* attached, not interrupted: likewise */
    RESTARTED       /* attached: a handler with SA_RESTART does not end what the kernel restarts */
};

void run_rows(const struct row *rows, size_t n, enum way way);
/* Fails unless every row of calls.def in one of these classes has its row here. */
void check_covered(const struct row *rows, size_t n, uint32_t classes);

/* The function by its name, as the program would find it. */
union any_function {
    void *data;
    void (*plain)(void);
};
union any_function function_named(const char *name);
#define CALL(f, type) ((type)function_named((f)->name).plain)

/* Ready-made parts. */
void make_pipe(struct fixture *f);
void make_socketpair(struct fixture *f);
void put_byte(struct fixture *f);  /* 'x' into a[1] */
bool got_byte(struct fixture *f);  /* the call gave 1 and the byte is 'x' */
void fill(struct fixture *f);      /* a[1], until it would block */
void drain(struct fixture *f);     /* a[0], until it is empty */
bool sent_byte(struct fixture *f); /* the call gave 1; every byte is accounted for */
bool gave_zero(struct fixture *f);
bool gave_one(struct fixture *f);

#endif
