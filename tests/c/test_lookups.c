/* Look-ups of host names end when they are interrupted, and leave nothing behind. The resolver behind the shim has a
 * gate (slow/slow_resolver.h), so no network is needed. */
#include "asks.h"
#include "support.h"

#include "slow_resolver.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct worker w;

static int helpers(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[300];
        char name[20] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file != NULL) {
            count += fgets(name, sizeof name, file) != NULL && strcmp(name, "itr-resolver\n") == 0;
            fclose(file);
        }
    }
    closedir(folder);
    return count;
}

#define AWAIT(condition)                                                                                               \
    for (int64_t since_ = now_ns(); !(condition); breathe()) {                                                         \
        check_patience(since_, #condition);                                                                            \
    }

static const struct {
    const char *call;
    void (*ask)(void *);
    struct asked asked;
    int result;
} slow[] = {
    {"getaddrinfo", ask_addresses, {.name = SLOW_NAME, .service = "80"}, EAI_SYSTEM},
    {"getnameinfo", ask_names, {.name = SLOW_ADDRESS, .size = 100}, EAI_SYSTEM},
    {"gethostbyname_r", ask_host, {.name = SLOW_NAME, .size = 1000}, ECANCELED},
    {"gethostbyname2_r", ask_host, {.name = SLOW_NAME, .size = 1000, .family = AF_INET}, ECANCELED},
    {"gethostbyaddr_r", ask_host, {.name = SLOW_ADDRESS, .size = 1000, .flags = 1}, ECANCELED},
};

static void clear(void *arg) {
    (void)arg;
    itr_clear();
}

/* Nothing runs, nobody waits, every list is freed. */
static void all_gone(void) {
    slow_open = true;
    AWAIT(slow_inside == 0 && slow_lists == 0);
    AWAIT(helpers() == 0);
}

static void broken(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(slow); i++) {
        struct asked asked = slow[i].asked;
        slow_open = false;
        worker_give(&w, slow[i].ask, &asked);
        await_parked(w.thread, slow[i].call);
        AWAIT(slow_inside == 1);
        assert_int_not_equal(slow_tid, w.tid);
        assert_int_equal(itr_interrupt(w.thread), ITR_OK);
        worker_wait(&w);
        assert_int_equal(asked.given.result, slow[i].result);
        assert_int_equal(asked.given.error, ECANCELED);
        assert_false(asked.given.found);
        if (slow[i].ask == ask_host) {
            assert_int_equal(asked.given.h_error, NETDB_INTERNAL);
        }
        assert_int_equal(slow_inside, 1); /* it goes on without us */
        /* What is pending breaks the next at its entry, without a helper. */
        worker_do(&w, slow[i].ask, &asked);
        assert_int_equal(asked.given.result, slow[i].result);
        assert_int_equal(slow_inside, 1);
        all_gone();
        worker_do(&w, clear, NULL);
        worker_do(&w, slow[i].ask, &asked);
        assert_int_equal(asked.given.result, 0);
    }
    all_gone();
}

static void mask(void *arg) {
    (void)arg;
    itr_mask_push(ITR_MASK_ALL);
}

static void unmask(void *arg) {
    (void)arg;
    itr_mask_pop(ITR_MASK_ALL);
    itr_clear();
}

/* Nobody may break it: made by the thread itself, which says where it is. */
static void masked(void **state) {
    (void)state;
    struct asked asked = slow[0].asked;
    slow_open = false;
    worker_do(&w, mask, NULL);
    worker_give(&w, ask_addresses, &asked);
    await_parked(w.thread, "getaddrinfo");
    AWAIT(slow_tid == w.tid && slow_inside == 1);
    assert_int_equal(itr_interrupt(w.thread), ITR_OK);
    for (int i = 0; i < 100; i++) {
        breathe();
    }
    assert_int_equal(slow_inside, 1);
    slow_open = true;
    worker_wait(&w);
    assert_int_equal(asked.given.result, 0);
    worker_do(&w, unmask, NULL);
}

/* A handler of the program's runs, and the look-up goes on. */
static void signalled(void **state) {
    (void)state;
    struct asked asked = slow[0].asked;
    slow_open = false;
    signals_seen = 0;
    count_signal(SIGUSR1, 0);
    worker_give(&w, ask_addresses, &asked);
    await_parked(w.thread, "getaddrinfo");
    assert_int_equal(pthread_kill(w.thread, SIGUSR1), 0);
    AWAIT(signals_seen == 1);
    await_parked(w.thread, "getaddrinfo");
    slow_open = true;
    worker_wait(&w);
    assert_int_equal(asked.given.result, 0);
}

/* ---- the bound (main sets it to 2) ------------------------------------------------------------------------------- */

static void bounded(void **state) {
    (void)state;
    struct asked asked = slow[0].asked;
    slow_open = false;
    for (int i = 0; i < 2; i++) {
        worker_give(&w, ask_addresses, &asked);
        AWAIT(slow_inside == i + 1);
        await_parked(w.thread, "getaddrinfo");
        itr_interrupt(w.thread);
        worker_wait(&w);
        worker_do(&w, clear, NULL);
    }
    AWAIT(helpers() == 2);        /* that of the last test may be ending */
    for (int i = 0; i < 5; i++) { /* these wait in line */
        worker_give(&w, ask_addresses, &asked);
        await_parked(w.thread, "getaddrinfo");
        assert_int_equal(slow_inside, 2);
        itr_interrupt(w.thread);
        worker_wait(&w);
        assert_int_equal(asked.given.result, EAI_SYSTEM);
        assert_int_equal(asked.given.error, ECANCELED);
        worker_do(&w, clear, NULL);
    }
    struct worker others[3];
    struct asked asks[3] = {asked, asked, asked};
    for (int i = 0; i < 3; i++) {
        worker_start(&others[i], true);
        worker_give(&others[i], ask_addresses, &asks[i]);
        await_parked(others[i].thread, "getaddrinfo");
    }
    assert_int_equal(slow_inside, 2);
    itr_interrupt(others[1].thread); /* from the middle of the line */
    worker_wait(&others[1]);
    slow_open = true;
    for (int i = 0; i < 3; i++) {
        worker_wait(&others[i]);
        assert_int_equal(asks[i].given.result, i == 1 ? EAI_SYSTEM : 0);
        worker_stop(&others[i]);
    }
    all_gone();
}

/* ---- interrupts against completion ------------------------------------------------------------------------------- */

enum { STORM = 6 };
static _Atomic bool over;
static _Atomic unsigned ended[2];

static void *looks_up_often(void *arg) {
    const unsigned *seed = arg;
    uint64_t random = *seed;
    itr_attach();
    while (!over) {
        size_t i = next_random(&random) % COUNT(slow);
        struct asked asked = slow[i].asked;
        slow[i].ask(&asked);
        bool was_broken = asked.given.result == slow[i].result && asked.given.error == ECANCELED;
        if (!was_broken && asked.given.result != 0) {
            abort();
        }
        ended[was_broken]++;
        itr_clear();
    }
    return NULL;
}

static void storm(void **state) {
    (void)state;
    static pthread_t all[STORM];
    static unsigned seeds[STORM];
    uint64_t random = stress_seed();
    unsigned rounds = stress_count(1500);
    over = false;
    ended[0] = ended[1] = 0;
    for (int i = 0; i < STORM; i++) {
        seeds[i] = (unsigned)next_random(&random) | 1;
        assert_int_equal(pthread_create(&all[i], NULL, looks_up_often, &seeds[i]), 0);
    }
    int64_t since = now_ns();
    for (unsigned i = 0; i < rounds || ended[0] == 0 || ended[1] == 0; i++) { /* both, if it takes longer */
        since = i <= rounds ? now_ns() : since;
        check_patience(since, "completed and broken");
        slow_open = next_random(&random) % 2 == 0;
        spin_ns((int64_t)(next_random(&random) % 200000));
        itr_interrupt(all[next_random(&random) % STORM]);
        if (i % 8 == 0) {
            breathe();
        }
        assert_true(slow_inside <= 1 + STORM); /* one less than the bound may be abandoned, and all be abandoned now */
    }
    over = true;
    slow_open = true;
    for (int i = 0; i < STORM; i++) {
        pthread_join(all[i], NULL);
    }
    printf("%u completed, %u broken\n", ended[0], ended[1]);
    all_gone();
}

/* ---- fork -------------------------------------------------------------------------------------------------------- */

static int child_looks_up(void *arg) {
    struct asked asked = slow[0].asked;
    (void)arg;
    slow_open = true;
    EXPECT(itr_attach() == ITR_OK);
    for (int i = 0; i < 3; i++) { /* more than may be abandoned: none of the parent's is counted */
        ask_addresses(&asked);
        EXPECT(asked.given.result == 0);
    }
    return 0;
}

static pid_t forked_by_handler;
static void fork_on_top(int sig) {
    (void)sig;
    forked_by_handler = fork();
    if (forked_by_handler == 0) {
        alarm(HANGS_S);
        slow_open = true; /* the look-up that this handler runs on top of has no helper here */
    }
}

static void looks_up_and_ends(void *arg) {
    struct asked *asked = arg;
    ask_addresses(asked);
    if (forked_by_handler == 0) {
        _exit(asked->given.result == 0 ? 42 : 1);
    }
}

static void forking(void **state) {
    (void)state;
    struct asked asked = slow[0].asked;
    struct sigaction act = {.sa_handler = fork_on_top};
    slow_open = false;
    for (int i = 0; i < 2; i++) {
        worker_give(&w, ask_addresses, &asked);
        AWAIT(slow_inside == i + 1);
        await_parked(w.thread, "getaddrinfo");
        itr_interrupt(w.thread);
        worker_wait(&w);
        worker_do(&w, clear, NULL);
    }
    in_child(child_looks_up, NULL); /* two are abandoned */
    all_gone();

    for (int i = 0; i < 2; i++) { /* parked, and running code of libc's own thereafter */
        slow_open = false;
        forked_by_handler = -1;
        sigaction(SIGUSR2, &act, NULL);
        worker_give(&w, looks_up_and_ends, &asked);
        await_parked(w.thread, "getaddrinfo");
        AWAIT(slow_inside == 1);
        assert_int_equal(pthread_kill(w.thread, SIGUSR2), 0);
        int status = -1;
        AWAIT(forked_by_handler > 0);
        assert_int_equal(waitpid(forked_by_handler, &status, 0), forked_by_handler);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 42);
        slow_open = true;
        worker_wait(&w);
        assert_int_equal(asked.given.result, 0);
    }
    all_gone();
}

/* ---- no thread to be had ----------------------------------------------------------------------------------------- */

static int without_threads(void *arg) {
    struct asked asked = slow[0].asked;
    struct rlimit none = {0, 0};
    (void)arg;
    slow_open = true;
    EXPECT(itr_attach() == ITR_OK);
    EXPECT(setrlimit(RLIMIT_NPROC, &none) == 0 && (getuid() != 0 || setuid(65534) == 0)); /* root has no limit */
    ask_addresses(&asked);
    EXPECT(asked.given.result == 0 && slow_tid == (int)getpid());
    return 0;
}

static void no_thread(void **state) {
    (void)state;
    in_child(without_threads, NULL);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken), cmocka_unit_test(masked),  cmocka_unit_test(signalled), cmocka_unit_test(bounded),
        cmocka_unit_test(storm),  cmocka_unit_test(forking), cmocka_unit_test(no_thread),
    };
    setenv("INTERRUPTIBLE_MAX_LOOKUPS", "2", 1);
    return cmocka_run_group_tests(tests, start_worker, stop_worker);
}
