/* Look-ups of host names by an attached thread give what libc gives. The resolver behind the shim has a gate
 * (slow/slow_resolver.h), which is open here. */
#include "asks.h"
#include "support.h"

#include "slow_resolver.h"

#include <string.h>

static struct worker w;

/* Asked by this thread, which is not attached, and by one that is. */
static void compare(void (*ask)(void *), struct asked asked) {
    struct asked again = asked;
    ask(&asked);
    worker_do(&w, ask, &again);
    const struct given *a = &asked.given;
    const struct given *b = &again.given;
    if (a->result != b->result || a->error != b->error || a->h_error != b->h_error ||
        a->h_error_result != b->h_error_result || a->found != b->found || strcmp(a->text, b->text) != 0) {
        fail_msg(
            "%s %s size %zu skew %zu: libc gives %d errno %d h_errno %d %d %d %s, and we %d errno %d h_errno %d %d "
            "%d %s",
            asked.name, asked.service, asked.size, asked.skew, a->result, a->error, a->h_error, a->h_error_result,
            a->found, a->text, b->result, b->error, b->h_error, b->h_error_result, b->found, b->text);
    }
}

static void addresses_are_libcs(void **state) {
    (void)state;
    static char too_long[400];
    memset(too_long, 'a', sizeof too_long - 1);
    const struct asked table[] = {
        {.name = "localhost", .service = NULL, .no_hints = true},
        {.name = "localhost", .service = "http", .no_hints = true},
        {.name = "localhost", .service = "80", .family = AF_INET, .socktype = SOCK_STREAM},
        {.name = "localhost", .service = "domain", .family = AF_UNSPEC, .flags = AI_CANONNAME},
        {.name = "localhost", .service = NULL, .family = AF_INET6, .flags = AI_V4MAPPED | AI_ALL},
        {.name = "localhost", .service = "no-such-service"},
        {.name = "localhost", .service = "80", .socktype = 77},
        {.name = "localhost", .service = "80", .family = 77},
        {.name = "localhost", .service = "80", .flags = 0x40000000},
        {.name = "localhost", .service = "80", .flags = AI_NUMERICHOST},
        {.name = "LOCALHOST", .service = "http", .flags = AI_CANONNAME | AI_IDN},
        {.name = SLOW_NAME, .service = "http", .flags = AI_CANONNAME},
        {.name = "127.0.0.1", .service = "http", .flags = AI_CANONNAME},
        {.name = "127.1", .service = "80"},
        {.name = "::1", .service = "80", .socktype = SOCK_DGRAM},
        {.name = "fe80::1%lo", .service = "80"},
        {.name = NULL, .service = "80", .flags = AI_PASSIVE},
        {.name = NULL, .service = NULL},
        {.name = "", .service = "80"},
        {.name = too_long, .service = "80"},
    };
    slow_open = true;
    for (size_t i = 0; i < COUNT(table); i++) {
        compare(ask_addresses, table[i]);
    }
    assert_int_equal(slow_lists, 0);
}

static void names_are_libcs(void **state) {
    (void)state;
    const char *const names[] = {"127.0.0.1", "::1", SLOW_ADDRESS};
    const int flags[] = {0, NI_NAMEREQD, NI_NUMERICHOST, NI_NUMERICSERV, NI_DGRAM, 0x4000};
    const size_t sizes[] = {0, 1, 3, 6, 10, 100};
    slow_open = true;
    for (size_t i = 0; i < COUNT(names) * COUNT(flags) * COUNT(sizes); i++) {
        compare(ask_names, (struct asked){.name = names[i % COUNT(names)],
                                          .flags = flags[i / COUNT(names) % COUNT(flags)],
                                          .size = sizes[i / COUNT(names) / COUNT(flags)]});
    }
}

static void hosts_are_libcs(void **state) {
    (void)state;
    const struct asked table[] = {{.name = "localhost"},
                                  {.name = "localhost", .family = AF_INET},
                                  {.name = "localhost", .family = 77},
                                  {.name = SLOW_NAME},
                                  {.name = "127.0.0.1"},
                                  {.name = "127.0.0.1", .flags = 1}};
    slow_open = true;
    for (size_t i = 0; i < COUNT(table); i++) {
        for (size_t size = 0; size < 1100; size = size < 300 ? size + 7 : size + 150) {
            struct asked one = table[i];
            one.size = size;
            one.skew = one.name[0] == '1' ? 0 : size % 16; /* libc misaligns a number's entry itself */
            compare(ask_host, one);
        }
    }
}

static int start_worker(void **state) {
    (void)state;
    worker_start(&w, true);
    return 0;
}

static int stop_worker(void **state) {
    (void)state;
    worker_stop(&w);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(addresses_are_libcs), cmocka_unit_test(names_are_libcs),
                                       cmocka_unit_test(hosts_are_libcs)};
    return cmocka_run_group_tests(tests, start_worker, stop_worker);
}
