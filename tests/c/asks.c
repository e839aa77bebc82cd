#include "asks.h"

#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static void say(struct given *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct given *g, const char *format, ...) {
    size_t used = strlen(g->text);
    va_list rest;
    va_start(rest, format);
    vsnprintf(g->text + used, sizeof g->text - used, format, rest);
    va_end(rest);
}

static void begin(struct given *g) {
    *g = (struct given){.h_error_result = 31};
    errno = 77;
    h_errno = 99;
}

static void end(struct given *g, int result) {
    g->error = errno;
    g->h_error = h_errno;
    g->result = result;
}

void ask_addresses(void *arg) {
    struct asked *a = arg;
    struct addrinfo hints = {.ai_family = a->family, .ai_socktype = a->socktype, .ai_flags = a->flags};
    struct addrinfo *list = NULL;
    begin(&a->given);
    end(&a->given, getaddrinfo(a->name, a->service, a->no_hints ? NULL : &hints, &list));
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        say(&a->given, "%d %d %d %d %s ", at->ai_flags, at->ai_family, at->ai_socktype, at->ai_protocol,
            at->ai_canonname == NULL ? "-" : at->ai_canonname);
        for (socklen_t i = 0; i < at->ai_addrlen; i++) {
            say(&a->given, "%02x", ((const unsigned char *)at->ai_addr)[i]);
        }
    }
    if (list != NULL) {
        freeaddrinfo(list);
    }
}

void ask_names(void *arg) {
    struct asked *a = arg;
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(80)};
    bool is_six = inet_pton(AF_INET6, a->name, &six.sin6_addr) == 1;
    inet_pton(AF_INET, a->name, &four.sin_addr);
    const struct sockaddr *addr = is_six ? (const struct sockaddr *)&six : (const struct sockaddr *)&four;
    socklen_t len = is_six ? sizeof six : sizeof four;
    char host[128] = "host";
    char service[128] = "service";
    begin(&a->given);
    end(&a->given, getnameinfo(addr, len, host, (socklen_t)a->size, service, (socklen_t)a->size, a->flags));
    if (a->given.result == 0) {
        say(&a->given, "%s %s", host, service);
    }
}

static void describe(struct given *g, const struct hostent *entry, const char *buffer, size_t size) {
    say(g, "%s %ld %d %d", entry->h_name, (long)(entry->h_name - buffer), entry->h_addrtype, entry->h_length);
    for (char **at = entry->h_aliases; *at != NULL; at++) {
        say(g, " %s %ld", *at, (long)(*at - buffer));
    }
    for (char **at = entry->h_addr_list; *at != NULL; at++) {
        say(g, " %02x %ld", (unsigned char)(*at)[3], (long)(*at - buffer));
    }
    for (size_t i = 0; i < size && i < 8; i++) { /* pointers are in it, at the end it is untouched */
        say(g, " %02x", (unsigned char)buffer[size - 1 - i]);
    }
}

void ask_host(void *arg) {
    struct asked *a = arg;
    _Alignas(64) char memory[1200];
    char *buffer = memory + a->skew;
    struct hostent entry;
    struct hostent *found = &entry;
    struct in_addr addr;
    int result;
    memset(memory, 0x5a, sizeof memory);
    begin(&a->given);
    if (inet_pton(AF_INET, a->name, &addr) == 1 && a->flags != 0) {
        result =
            gethostbyaddr_r(&addr, sizeof addr, AF_INET, &entry, buffer, a->size, &found, &a->given.h_error_result);
    } else if (a->family == 0) {
        result = gethostbyname_r(a->name, &entry, buffer, a->size, &found, &a->given.h_error_result);
    } else {
        result = gethostbyname2_r(a->name, a->family, &entry, buffer, a->size, &found, &h_errno);
    }
    end(&a->given, result);
    a->given.found = found != NULL;
    assert_true(found == NULL || found == &entry);
    if (found != NULL) {
        describe(&a->given, found, buffer, a->size);
    }
}
