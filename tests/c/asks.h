/* Questions to the resolver, and what it said to them as text and numbers that can be compared. */
#ifndef TESTS_ASKS_H
#define TESTS_ASKS_H

#include <stdbool.h>
#include <stddef.h>

/* What a look-up gave. errno and h_errno are set to something else before. */
struct given {
    int result, error, h_error, h_error_result;
    bool found;
    char text[4096];
};

struct asked {
    const char *name, *service;
    int family, socktype, flags;
    bool no_hints;
    size_t size; /* of the buffers */
    size_t skew; /* their alignment */
    struct given given;
};

/* Each takes a struct asked, so that a worker can do it. */
void ask_addresses(void *asked); /* getaddrinfo */
void ask_names(void *asked);     /* getnameinfo of the address `name` */
void ask_host(void *asked);      /* gethostbyaddr_r with flags, gethostbyname2_r with a family, else gethostbyname_r */

#endif
