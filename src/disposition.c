/* The program's own disposition of our signal: what it sets and reads back, and what is called for a signal that is no
 * wake-up. */
#include "disposition.h"

#include "preload.h"
#include "signals.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the program believes the disposition to be. Our handler reads it without a lock, and never in vain: a signal
 * that it did not hand on would be lost to the program (Go waits for each of its own). There are two copies, the one
 * that `program_turn` says is whole while the other is written; who reads looks again when the turn has changed
 * meanwhile. */
#define WORDS (sizeof(struct sigaction) / sizeof(uint64_t))
_Static_assert(sizeof(struct sigaction) % sizeof(uint64_t) == 0, "copied in words");
static _Atomic uint64_t program_action[2][WORDS];
static _Atomic unsigned program_turn;
static atomic_flag program_lock = ATOMIC_FLAG_INIT; /* of those that write; a spin lock, as a handler may be one */
static _Atomic pid_t owner; /* whose disposition it is: a child of vfork shares only our memory */

/* Without signals, whose handlers may want it too. By system call: libc would let through the one that the monitor
 * waits for. */
static void lock_program(uint64_t *before) {
    const uint64_t all = ~UINT64_C(0);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof all);
    while (atomic_flag_test_and_set_explicit(&program_lock, memory_order_acquire)) {
    }
}

static void unlock_program(const uint64_t *before) {
    atomic_flag_clear_explicit(&program_lock, memory_order_release);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, sizeof *before);
}

static struct sigaction get_program(void) {
    uint64_t words[WORDS] = {0};
    unsigned turn;
    do {
        turn = atomic_load_explicit(&program_turn, memory_order_acquire);
        for (size_t i = 0; i < WORDS; i++) { /* acquire: a word of a later turn brings that turn along */
            words[i] = atomic_load_explicit(&program_action[turn % 2][i], memory_order_acquire);
        }
    } while (turn != atomic_load_explicit(&program_turn, memory_order_relaxed));
    struct sigaction action;
    memcpy(&action, words, sizeof action);
    return action;
}

/* The lock is held. */
static void set_program(const struct sigaction *action) {
    uint64_t words[WORDS];
    unsigned turn = atomic_load_explicit(&program_turn, memory_order_relaxed) + 1;
    memcpy(words, action, sizeof words);
    for (size_t i = 0; i < WORDS; i++) {
        atomic_store_explicit(&program_action[turn % 2][i], words[i], memory_order_release);
    }
    atomic_store_explicit(&program_turn, turn, memory_order_release);
}

bool itr_disposition_take(int sig) {
    struct sigaction ours;
    struct sigaction before;
    uint64_t mask;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = itr_signal_handler;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK; /* no SA_RESTART: ending the call is the point */
    sigemptyset(&ours.sa_mask);
    if (itr_real.sigaction(sig, NULL, &before) != 0) {
        return false;
    }
    lock_program(&mask);
    set_program(&before); /* first, so that none that comes at once is lost */
    if (itr_real.sigaction(sig, &ours, &before) == 0) {
        set_program(&before);
    }
    unlock_program(&mask);
    atomic_store_explicit(&owner, getpid(), memory_order_relaxed);
    return true;
}

/* The program's handler, as the kernel would have called it: with its mask, and once if it is there once. This thread
 * blocks our signal here, and cannot be the one that holds the lock: whoever does blocks all. */
void itr_disposition_hand_on(int sig, siginfo_t *info, void *context) {
    uint64_t mask;
    lock_program(&mask);
    struct sigaction action = get_program();
    if (((unsigned)action.sa_flags & SA_RESETHAND) != 0) {
        struct sigaction once = action;
        once.sa_handler = SIG_DFL;
        once.sa_flags &= ~SA_SIGINFO;
        set_program(&once);
    }
    unlock_program(&mask);
    bool informed = (action.sa_flags & SA_SIGINFO) != 0;
    if (!informed && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)) {
        return;
    }
    /* The kernel takes all of it back when our handler returns. */
    itr_real.pthread_sigmask(SIG_BLOCK, &action.sa_mask, NULL);
    if (informed) {
        action.sa_sigaction(sig, info, context);
    } else {
        action.sa_handler(sig);
    }
}

/* ---- what the program sees --------------------------------------------------------------------------------------- */

/* What a child of vfork sets is its own, and not the program's: subprocess resets all handlers there. */
static bool in_vfork_child(void) { return atomic_load_explicit(&owner, memory_order_relaxed) != getpid(); }

static int vfork_sigaction(int sig, const struct sigaction *act, struct sigaction *old) {
    int result = itr_real.sigaction(sig, act, old);
    if (result == 0 && old != NULL && (old->sa_flags & SA_SIGINFO) != 0 && old->sa_sigaction == itr_signal_handler) {
        *old = get_program();
    }
    return result;
}

/* What is read back is what the kernel would have kept, and libc added. */
static struct sigaction as_kept(const struct sigaction *act) {
    const unsigned known = (unsigned)(SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER) |
                           (unsigned)SA_RESETHAND | 0x800u /* SA_EXPOSE_TAGBITS */;
    struct sigaction kept = *act;
    struct sigaction ours;
    unsigned added = 0;
    if (itr_real.sigaction(itr_signal_number(), NULL, &ours) == 0) {
        added = (unsigned)ours.sa_flags & ~known;
        kept.sa_restorer = ours.sa_restorer;
    }
    kept.sa_flags = (int)(((unsigned)act->sa_flags & known) | added);
    sigdelset(&kept.sa_mask, SIGKILL);
    sigdelset(&kept.sa_mask, SIGSTOP);
    return kept;
}

int itr_call_sigaction(int sig, const struct sigaction *act, struct sigaction *old) {
    if (!itr_signal_is(sig)) {
        return itr_real.sigaction(sig, act, old);
    }
    if (in_vfork_child()) {
        return vfork_sigaction(sig, act, old);
    }
    uint64_t mask;
    struct sigaction kept;
    if (act != NULL) {
        kept = as_kept(act);
    }
    lock_program(&mask);
    struct sigaction before = get_program();
    if (act != NULL) {
        set_program(&kept);
    }
    unlock_program(&mask);
    if (old != NULL) {
        *old = before;
    }
    return 0;
}

/* siginterrupt() holds for what signal() sets later, too. */
static _Atomic bool interrupts;

sighandler_t itr_call_signal(int sig, sighandler_t function) {
    if (!itr_signal_is(sig) || function == SIG_ERR) {
        return itr_real.signal(sig, function);
    }
    struct sigaction act;
    struct sigaction old;
    memset(&act, 0, sizeof act);
    act.sa_handler = function;
    act.sa_flags = atomic_load_explicit(&interrupts, memory_order_relaxed) ? 0 : SA_RESTART;
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, sig);
    itr_call_sigaction(sig, &act, &old);
    return old.sa_handler;
}

int itr_call_siginterrupt(int sig, int flag) {
    if (!itr_signal_is(sig) || in_vfork_child()) {
        return itr_real.siginterrupt(sig, flag);
    }
    uint64_t mask;
    atomic_store_explicit(&interrupts, flag != 0, memory_order_relaxed);
    lock_program(&mask);
    struct sigaction action = get_program();
    if (flag != 0) {
        action.sa_flags &= ~SA_RESTART;
    } else {
        action.sa_flags |= SA_RESTART;
    }
    set_program(&action);
    unlock_program(&mask);
    return 0;
}

void itr_disposition_after_fork(void) {
    /* Whoever held it in the parent does not exist in the child. */
    atomic_flag_clear_explicit(&program_lock, memory_order_release);
    atomic_store_explicit(&owner, getpid(), memory_order_relaxed);
}
