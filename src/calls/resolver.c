/* Names and addresses of hosts: copies of the arguments for the helper thread (lookup.h), and of what it found for the
 * caller, who gets the same bytes as from libc.
 *
 * A broken look-up is a system error to its caller, ECANCELED or EINTR: EAI_SYSTEM, or NETDB_INTERNAL. For C libraries
 * too: EAI_AGAIN would blame the name server, and be tried again.
 *
 * A number needs no name server, and is left to libc on the spot. */
#include "calls/signal_park.h"

#include "lookup.h"
#include "preload.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

static bool is_number(const char *name) {
    struct in6_addr six;
    struct in_addr four; /* also as 127.1 and 0x7f000001; but inet_aton would stop at a space */
    return (name[strspn(name, "0123456789abcdefABCDEFxX.")] == '\0' && inet_aton(name, &four) != 0) ||
           inet_pton(AF_INET6, name, &six) == 1;
}

/* Puts a string's copy at *at, and *at behind it. */
static char *copied(const char *string, char **at) {
    if (string == NULL) {
        return NULL;
    }
    size_t size = strlen(string) + 1;
    char *copy = memcpy(*at, string, size);
    *at += size;
    return copy;
}

/* ---- name to addresses ------------------------------------------------------------------------------------------- */

struct addresses {
    struct itr_lookup lookup;
    const char *node, *service;
    struct addrinfo hints, *list;
    bool has_hints;
    int result;
    char text[];
};

static void find_addresses(struct itr_lookup *l) {
    struct addresses *a = (struct addresses *)l;
    a->result = itr_real.getaddrinfo(a->node, a->service, a->has_hints ? &a->hints : NULL, &a->list);
}

static void drop_addresses(struct itr_lookup *l) {
    struct addresses *a = (struct addresses *)l;
    if (a->result == 0 && a->list != NULL) {
        freeaddrinfo(a->list);
    }
}

static struct addresses *new_addresses(const char *node, const char *service, const struct addrinfo *hints) {
    size_t text = strlen(node) + 1 + (service == NULL ? 0 : strlen(service) + 1);
    struct addresses *a = itr_lookup_new(sizeof *a + text, find_addresses, drop_addresses);
    if (a == NULL) {
        return NULL;
    }
    char *at = a->text;
    a->node = copied(node, &at);
    a->service = copied(service, &at);
    a->has_hints = hints != NULL;
    if (hints != NULL) { /* the pointers in it mean nothing */
        a->hints = (struct addrinfo){.ai_flags = hints->ai_flags,
                                     .ai_family = hints->ai_family,
                                     .ai_socktype = hints->ai_socktype,
                                     .ai_protocol = hints->ai_protocol};
    }
    return a;
}

int itr_call_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
    struct addresses *a = NULL;
    if (ITR_LIKELY(itr_self == NULL) || node == NULL || (hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0) ||
        is_number(node) || (a = new_addresses(node, service, hints)) == NULL) {
        return itr_real.getaddrinfo(node, service, hints, list);
    }
    ITR_NOTE_CALLER();
    if (!itr_look_up(&a->lookup, "getaddrinfo")) {
        return EAI_SYSTEM;
    }
    int result = a->result;
    if (result == 0) {
        *list = a->list; /* libc's own, for the caller to free as ever */
        a->list = NULL;
    }
    itr_lookup_end(&a->lookup);
    return result;
}

/* ---- address to name --------------------------------------------------------------------------------------------- */

struct names {
    struct itr_lookup lookup;
    struct sockaddr_storage addr;
    socklen_t len;
    char *host, *service;
    socklen_t host_size, service_size;
    int flags, result;
    char text[];
};

static void find_names(struct itr_lookup *l) {
    struct names *n = (struct names *)l;
    n->result = itr_real.getnameinfo((const struct sockaddr *)&n->addr, n->len, n->host, n->host_size, n->service,
                                     n->service_size, n->flags);
}

/* Is it for a host's name, and in a form that libc takes? What it refuses it refuses at once. */
static bool asks_for_host(const struct sockaddr *addr, socklen_t len, const char *host, socklen_t size, int flags) {
    if (host == NULL || size == 0 || (flags & NI_NUMERICHOST) != 0 || addr == NULL || len < sizeof addr->sa_family) {
        return false;
    }
    return (addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) ||
           (addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6));
}

int itr_call_getnameinfo(const struct sockaddr *addr, socklen_t len, char *host, socklen_t host_size, char *service,
                         socklen_t service_size, int flags) {
    struct names *n = NULL;
    if (ITR_LIKELY(itr_self == NULL) || !asks_for_host(addr, len, host, host_size, flags) || len > sizeof n->addr ||
        (n = itr_lookup_new(sizeof *n + host_size + service_size, find_names, NULL)) == NULL) {
        return itr_real.getnameinfo(addr, len, host, host_size, service, service_size, flags);
    }
    memcpy(&n->addr, addr, len);
    n->len = len;
    n->host = n->text;
    n->host_size = host_size;
    n->service = service == NULL ? NULL : n->text + host_size;
    n->service_size = service_size;
    n->flags = flags;
    ITR_NOTE_CALLER();
    if (!itr_look_up(&n->lookup, "getnameinfo")) {
        return EAI_SYSTEM;
    }
    int result = n->result;
    if (result == 0) {
        memcpy(host, n->host, strlen(n->host) + 1);
        if (service != NULL && service_size > 0) {
            memcpy(service, n->service, strlen(n->service) + 1);
        }
    }
    itr_lookup_end(&n->lookup);
    return result;
}

/* ---- the older functions: a host's entry in a buffer of the caller's --------------------------------------------- */

#define ANY_FAMILY (-1)

/* What is asked: by a name, of any family or of one, or by an address. */
struct question {
    const char *name;
    const void *addr;
    socklen_t len;
    int family;
};

struct answer {
    struct hostent *entry;
    char *buffer;
    size_t size;
    struct hostent **found;
    int *h_error;
};

struct host {
    struct itr_lookup lookup;
    struct question question;
    struct answer answer;
    struct hostent entry, *found;
    int h_error, result;
    struct in6_addr addr;
    char text[];
};

static int ask(const struct question *q, const struct answer *a) {
    if (q->name == NULL) {
        return itr_real.gethostbyaddr_r(q->addr, q->len, q->family, a->entry, a->buffer, a->size, a->found, a->h_error);
    }
    if (q->family == ANY_FAMILY) {
        return itr_real.gethostbyname_r(q->name, a->entry, a->buffer, a->size, a->found, a->h_error);
    }
    return itr_real.gethostbyname2_r(q->name, q->family, a->entry, a->buffer, a->size, a->found, a->h_error);
}

static void find_host(struct itr_lookup *l) {
    struct host *h = (struct host *)l;
    h->result = ask(&h->question, &h->answer);
}

#define BUFFER_ALIGNMENT 64u

static struct host *new_host(const struct question *q, const struct answer *a) {
    size_t text = q->name == NULL ? 0 : strlen(q->name) + 1;
    size_t most = SIZE_MAX / 2 - sizeof(struct host) - text;
    struct host *h = NULL;
    if (a->size > most - BUFFER_ALIGNMENT ||
        (h = itr_lookup_new(sizeof *h + text + BUFFER_ALIGNMENT + a->size, find_host, NULL)) == NULL) {
        return NULL;
    }
    char *at = h->text;
    h->question = *q;
    h->question.name = copied(q->name, &at);
    if (q->addr != NULL) {
        memcpy(&h->addr, q->addr, q->len);
        h->question.addr = &h->addr;
    }
    /* libc aligns what it puts into the buffer, and needs the more room for it the worse the buffer is aligned: ours is
     * aligned as the caller's. It starts as a copy, so that what libc leaves alone comes back unchanged. */
    at += ((uintptr_t)a->buffer - (uintptr_t)at) % BUFFER_ALIGNMENT;
    memcpy(at, a->buffer, a->size);
    h->h_error = *a->h_error;
    h->answer = (struct answer){&h->entry, at, a->size, &h->found, &h->h_error};
    return h;
}

/* From the helper's buffer to the same place in the caller's. */
static char *moved(const struct host *h, const struct answer *to, char *pointer) {
    uintptr_t offset = (uintptr_t)pointer - (uintptr_t)h->answer.buffer;
    return offset < to->size ? to->buffer + offset : pointer;
}

static char **move_list(const struct host *h, const struct answer *to, char **list) {
    for (char **at = list; at != NULL && *at != NULL; at++) {
        *at = moved(h, to, *at);
    }
    return (char **)(void *)moved(h, to, (char *)list);
}

static void give(struct host *h, const struct answer *to) {
    *to->found = NULL;
    if (h->found != NULL) {
        h->entry.h_name = moved(h, to, h->entry.h_name);
        h->entry.h_aliases = move_list(h, to, h->entry.h_aliases);
        h->entry.h_addr_list = move_list(h, to, h->entry.h_addr_list);
        *to->entry = h->entry;
        memcpy(to->buffer, h->answer.buffer, to->size);
        *to->found = to->entry;
    }
}

/* Is libc going to look for it? What is malformed it refuses at once. */
static bool waits(const struct question *q) {
    if (q->name != NULL) {
        return !is_number(q->name);
    }
    return (q->family == AF_INET && q->len == sizeof(struct in_addr)) ||
           (q->family == AF_INET6 && q->len == sizeof(struct in6_addr));
}

#define NOTE_CALLER()                                                                                                  \
    if (itr_self != NULL) {                                                                                            \
        ITR_NOTE_CALLER();                                                                                             \
    }

static int park_host(const char *call, const struct question *q, const struct answer *a) {
    struct host *h = NULL;
    if (ITR_LIKELY(itr_self == NULL) || !waits(q) || (h = new_host(q, a)) == NULL) {
        return ask(q, a);
    }
    if (!itr_look_up(&h->lookup, call)) {
        *a->found = NULL;
        *a->h_error = h_errno = NETDB_INTERNAL;
        return errno;
    }
    int result = h->result;
    int h_error = h->h_error;
    give(h, a);
    itr_lookup_end(&h->lookup);
    *a->h_error = h_error; /* last: it may be h_errno itself */
    return result;
}

int itr_call_gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t size, struct hostent **found,
                             int *h_error) {
    NOTE_CALLER();
    return park_host("gethostbyname_r", &(struct question){.name = name, .family = ANY_FAMILY},
                     &(struct answer){entry, buffer, size, found, h_error});
}

int itr_call_gethostbyname2_r(const char *name, int family, struct hostent *entry, char *buffer, size_t size,
                              struct hostent **found, int *h_error) {
    NOTE_CALLER();
    return park_host("gethostbyname2_r", &(struct question){.name = name, .family = family},
                     &(struct answer){entry, buffer, size, found, h_error});
}

int itr_call_gethostbyaddr_r(const void *addr, socklen_t len, int family, struct hostent *entry, char *buffer,
                             size_t size, struct hostent **found, int *h_error) {
    NOTE_CALLER();
    return park_host("gethostbyaddr_r", &(struct question){.addr = addr, .len = len, .family = family},
                     &(struct answer){entry, buffer, size, found, h_error});
}
