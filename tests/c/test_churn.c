/* Many threads: attaching and detaching under interrupts from others, and ten thousand at a time. */
#include "support.h"

#include "api.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- come and go ------------------------------------------------------------------------------------------------- */

enum { LIVE = 8 };

static _Atomic(pthread_t) current[LIVE]; /* may have ended: to be told by -ESRCH, never a crash */
static _Atomic bool over;
static _Atomic unsigned recorded, seen, odd;

static void *brief(void *arg) {
    size_t i = (size_t)arg;
    int ends[2] = {-1, -1};
    char byte;
    current[i] = pthread_self();
    for (int life = 0; life < 3; life++) {
        if (itr_attach() != ITR_OK || pipe(ends) != 0) {
            odd++;
        }
        if (read(ends[0], &byte, 1) != -1 || errno != ECANCELED) { /* nobody writes: only an interrupt ends it */
            odd++;
        }
        seen += (unsigned)itr_clear();
        close(ends[0]);
        close(ends[1]);
        if (life < 2) {
            itr_detach();
        }
    }
    return NULL;
}

static void *interrupts_all(void *arg) {
    uint64_t seed = *(uint64_t *)arg;
    while (!over) {
        for (size_t i = 0; i < LIVE; i++) {
            int answer = itr_interrupt(current[i]);
            recorded += answer == ITR_OK;
            odd += answer != ITR_OK && answer != ITR_COALESCED && answer != -ESRCH;
        }
        spin_ns((int64_t)(next_random(&seed) % 20000));
    }
    return NULL;
}

static void come_and_go(void **state) {
    pthread_t waker;
    pthread_t threads[LIVE];
    uint64_t seed = stress_seed();
    unsigned rounds = 0;
    (void)state;
    for (size_t i = 0; i < LIVE; i++) {
        current[i] = pthread_self();
    }
    assert_int_equal(pthread_create(&waker, NULL, interrupts_all, &seed), 0);
    for (int64_t since = now_ns(); stress_goes_on(rounds, 300, since); rounds++) {
        for (size_t i = 0; i < LIVE; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, brief, (void *)i), 0);
        }
        for (size_t i = 0; i < LIVE; i++) {
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        }
    }
    over = true;
    pthread_join(waker, NULL);
    printf("%u threads, %u interrupts recorded, %u seen\n", rounds * LIVE, recorded, seen);
    assert_int_equal(odd, 0);
    assert_int_equal(seen, rounds * LIVE * 3); /* each life ended by one */
    assert_true(recorded >= seen);             /* the rest came after it and was discarded */
}

/* ---- ten thousand ------------------------------------------------------------------------------------------------ */

struct crowd {
    int ends[2];
    _Atomic unsigned attached, broken, wrong;
};

static void *one_of_many(void *arg) {
    struct crowd *c = arg;
    char byte;
    if (itr_attach() != ITR_OK) {
        c->wrong++;
        return NULL;
    }
    c->attached++;
    if (read(c->ends[0], &byte, 1) == -1 && errno == ECANCELED && itr_clear() == 1) {
        c->broken++;
    } else {
        c->wrong++;
    }
    return NULL;
}

static void ten_thousand(void **state) {
    unsigned wanted = stress_count(10000);
    pthread_t *threads = calloc(wanted, sizeof *threads);
    struct crowd c = {.attached = 0};
    pthread_attr_t attr;
    unsigned made = 0;
    (void)state;
    assert_non_null(threads);
    assert_int_equal(pipe(c.ends), 0);
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, 64 * 1024), 0);
    while (made < wanted && pthread_create(&threads[made], &attr, one_of_many, &c) == 0) {
        made++;
    }
    if (made < wanted) {
        print_message("only %u threads: pthread_create refuses more\n", made);
    }
    int64_t since = now_ns();
    for (unsigned before = 0, now = 0; (now = c.attached) < made; breathe()) {
        since = now == before ? since : now_ns(); /* slow, but it goes on */
        before = now;
        check_patience(since, "attached");
    }
    for (unsigned i = 0; i < made; i++) {
        await_parked(threads[i], "read");
    }
    int64_t start = now_ns();
    for (unsigned i = 0; i < made; i++) {
        assert_int_equal(itr_interrupt(threads[i]), ITR_OK);
    }
    int64_t sent = now_ns();
    for (unsigned i = 0; i < made; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    printf("%u threads interrupted in %lld ms, all ended after %lld ms\n", made, (long long)((sent - start) / MS),
           (long long)((now_ns() - start) / MS));
    assert_int_equal(c.broken, made);
    assert_int_equal(c.wrong, 0);
    pthread_attr_destroy(&attr);
    free(threads);
    close(c.ends[0]);
    close(c.ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(come_and_go), cmocka_unit_test(ten_thousand)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
