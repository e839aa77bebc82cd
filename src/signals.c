/* The wake-up signal.
 *
 * At most one wake-up signal per thread is on its way at any time (sig_sent != sig_seen), so the handler can say which
 * one it has seen by copying sig_sent. It carries a mark; one without, that somebody else raised, goes to the program.
 */
#include "signals.h"

#include "preload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

static _Atomic int number; /* 0: not chosen yet */
static _Atomic bool installed;
static _Atomic bool cannot_mark; /* a sandbox refuses the call that a mark needs */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

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

static void handler(int sig, siginfo_t *info, void *context);

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

/* The signal that INTERRUPTIBLE_SIGNAL names, by number or by name; 0: none that can be used. */
static int wished(const char *wish) {
    static const struct {
        const char *name;
        int number;
    } names[] = {{"URG", SIGURG},   {"USR1", SIGUSR1}, {"USR2", SIGUSR2},     {"WINCH", SIGWINCH},
                 {"IO", SIGIO},     {"POLL", SIGIO},   {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF},
                 {"ALRM", SIGALRM}, {"PWR", SIGPWR},   {"CHLD", SIGCHLD},     {"HUP", SIGHUP}};
    char *end = NULL;
    long value = strtol(wish, &end, 10);
    if (end != wish && *end == '\0') {
        bool libcs_own = value >= 32 && value < SIGRTMIN; /* sigaction() refuses them; they would kill */
        return value > 0 && value <= SIGRTMAX && value != SIGKILL && value != SIGSTOP && !libcs_own ? (int)value : 0;
    }
    const char *name = strncmp(wish, "SIG", 3) == 0 ? wish + 3 : wish;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) == 0) {
            return names[i].number;
        }
    }
    return 0;
}

int itr_signal_number(void) {
    int chosen = atomic_load_explicit(&number, memory_order_relaxed);
    if (chosen != 0) {
        return chosen;
    }
    const char *wish = secure_getenv("INTERRUPTIBLE_SIGNAL");
    chosen = wish == NULL ? 0 : wished(wish);
    if (chosen == 0) {
        chosen = SIGURG;
    }
    atomic_store_explicit(&number, chosen, memory_order_relaxed);
    return chosen;
}

static bool take_over(int sig) {
    struct sigaction ours;
    struct sigaction before;
    uint64_t mask;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = handler;
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

static void install_once(void) {
    if (atomic_load_explicit(&installed, memory_order_acquire)) {
        return;
    }
    pthread_mutex_lock(&install_lock);
    if (!atomic_load_explicit(&installed, memory_order_relaxed) && take_over(itr_signal_number())) {
        atomic_store_explicit(&installed, true, memory_order_release);
    }
    pthread_mutex_unlock(&install_lock);
}

/* Ours, and not one that somebody else sent: it carries our mark, or we could not mark it and one is on its way.
 *
 * The mark is an address, which other processes may know: a child has it too. So the sender must be this process. The
 * kernel hands on what send_marked() put there, or 0 when it comes from a process that we cannot see; sigqueue() puts
 * its caller's there. A process that lies by system call is not found out, and may send us any signal anyway: one that
 * is taken for a wake-up ends a call that is then made again. */
static bool is_wake_up(const struct itr_slot *slot, const siginfo_t *info) {
    if (info->si_code == SI_QUEUE && info->si_value.sival_ptr == &number && info->si_pid == getpid()) {
        return true;
    }
    bool lost_info = info->si_code == SI_USER && info->si_pid == 0; /* over RLIMIT_SIGPENDING */
    bool unmarked = atomic_load_explicit(&cannot_mark, memory_order_relaxed) && info->si_code == SI_TKILL &&
                    info->si_pid == getpid();
    return (lost_info || unmarked) && slot != NULL &&
           atomic_load_explicit(&slot->sig_sent, memory_order_relaxed) !=
               atomic_load_explicit(&slot->sig_seen, memory_order_relaxed);
}

/* The program's handler, as the kernel would have called it: with its mask, and once if it is there once. This thread
 * blocks our signal here, and cannot be the one that holds the lock: whoever does blocks all. */
static void hand_on(int sig, siginfo_t *info, void *context) {
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

static void handler(int sig, siginfo_t *info, void *context) {
    int saved = errno;
    struct itr_slot *slot = itr_self;
    if (is_wake_up(slot, info)) {
        if (slot != NULL) {
            /* Pairs with the target's own load in the park protocol; same thread, so relaxed. */
            uint32_t sent = atomic_load_explicit(&slot->sig_sent, memory_order_relaxed);
            atomic_store_explicit(&slot->sig_seen, sent, memory_order_relaxed);
        }
        errno = saved;
        return;
    }
    hand_on(sig, info, context);
    errno = saved;
}

bool itr_signals_ours(void) {
    struct sigaction now;
    return atomic_load_explicit(&installed, memory_order_acquire) &&
           itr_real.sigaction(itr_signal_number(), NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
           now.sa_sigaction == handler;
}

void itr_signals_attach(struct itr_slot *slot) {
    sigset_t ours;
    sigset_t before;
    install_once();
    sigemptyset(&ours);
    sigaddset(&ours, itr_signal_number());
    if (itr_real.pthread_sigmask(SIG_UNBLOCK, &ours, &before) == 0) {
        slot->program_blocks = sigismember(&before, itr_signal_number()) == 1;
    }
}

void itr_signals_detach(const struct itr_slot *slot) {
    if (slot->program_blocks) {
        sigset_t ours;
        sigemptyset(&ours);
        sigaddset(&ours, itr_signal_number());
        itr_real.pthread_sigmask(SIG_BLOCK, &ours, NULL);
    }
}

static bool send_marked(pid_t tid, int sig) {
    if (!atomic_load_explicit(&cannot_mark, memory_order_relaxed)) {
        siginfo_t info;
        memset(&info, 0, sizeof info);
        info.si_signo = sig;
        info.si_code = SI_QUEUE;
        info.si_pid = getpid();
        info.si_value.sival_ptr = &number;
        if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, sig, &info) == 0) {
            return true;
        }
        if (errno != ENOSYS && errno != EPERM) {
            return false;
        }
        atomic_store_explicit(&cannot_mark, true, memory_order_relaxed);
    }
    return syscall(SYS_tgkill, getpid(), tid, sig) == 0;
}

void itr_signal_send(struct itr_slot *slot) {
    uint32_t sent = atomic_load_explicit(&slot->sig_sent, memory_order_relaxed);
    if (sent != atomic_load_explicit(&slot->sig_seen, memory_order_relaxed)) {
        return; /* one is on its way and will end the call when it arrives */
    }
    slot->sig_number = itr_signal_number();
    atomic_store_explicit(&slot->sig_sent, sent + 1, memory_order_release);
    if (!send_marked(slot->tid, slot->sig_number)) {
        atomic_store_explicit(&slot->sig_seen, sent + 1, memory_order_relaxed); /* EAGAIN, ESRCH: nothing was sent */
    }
}

void itr_signal_main(void) {
    int saved = errno;
    /* Not attached, it could not tell one without a mark from the program's own. */
    if (!atomic_load_explicit(&cannot_mark, memory_order_relaxed)) {
        (void)send_marked(getpid(), itr_signal_number());
    }
    errno = saved;
}

#define SURELY_LOST 64 /* looks of the monitor, in more than half a second */

void itr_signals_doctor(struct itr_slot *slot, uint32_t tries) {
    static int first; /* the number that every attached thread lets through */
    pthread_mutex_lock(&install_lock);
    if (first == 0) {
        first = itr_signal_number();
    }
    bool ours = itr_signals_ours();
    if (ours && tries >= 16 && itr_signal_number() != first && take_over(first)) {
        /* This thread blocks the number we moved to, and only it could change that. So take the first one back: the
         * handler that the other runtime put there is the program's now, and gets what is not ours. */
        atomic_store_explicit(&number, first, memory_order_relaxed);
    }
    for (int sig = SIGRTMAX - 2; sig >= SIGRTMIN && !ours; sig--) {
        struct sigaction now;
        if (itr_real.sigaction(sig, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL &&
            take_over(sig)) {
            atomic_store_explicit(&number, sig, memory_order_relaxed);
            ours = true;
        }
    }
    pthread_mutex_unlock(&install_lock);
    pthread_mutex_lock(&slot->lock);
    /* What was sent under another number (we may have moved for another thread's sake) went to somebody else's handler,
     * and so did, perhaps, what does not come for so long: let another be sent. Not before: of two that are under way
     * and cannot be marked, the second would be taken for the program's. */
    if (ours && (slot->sig_number != itr_signal_number() || tries >= SURELY_LOST)) {
        atomic_store_explicit(&slot->sig_seen, atomic_load_explicit(&slot->sig_sent, memory_order_relaxed),
                              memory_order_relaxed);
    }
    pthread_mutex_unlock(&slot->lock);
}

void itr_signals_after_fork(void) {
    /* Whoever held these in the parent does not exist in the child. */
    pthread_mutex_init(&install_lock, NULL);
    atomic_flag_clear_explicit(&program_lock, memory_order_release);
    atomic_store_explicit(&owner, getpid(), memory_order_relaxed);
}

void itr_signals_strip(sigset_t *set) {
    if (atomic_load_explicit(&installed, memory_order_acquire)) {
        sigdelset(set, itr_signal_number());
    }
}

/* ---- what the program sees
 * ------------------------------------------------------------------------------------------- */

static bool is_ours(int sig) {
    return atomic_load_explicit(&installed, memory_order_acquire) && sig == itr_signal_number();
}

/* What a child of vfork sets is its own, and not the program's: subprocess resets all handlers there. */
static bool in_vfork_child(void) { return atomic_load_explicit(&owner, memory_order_relaxed) != getpid(); }

static int vfork_sigaction(int sig, const struct sigaction *act, struct sigaction *old) {
    int result = itr_real.sigaction(sig, act, old);
    if (result == 0 && old != NULL && (old->sa_flags & SA_SIGINFO) != 0 && old->sa_sigaction == handler) {
        *old = get_program();
    }
    return result;
}

int itr_call_sigaction(int sig, const struct sigaction *act, struct sigaction *old) {
    if (!is_ours(sig)) {
        return itr_real.sigaction(sig, act, old);
    }
    if (in_vfork_child()) {
        return vfork_sigaction(sig, act, old);
    }
    uint64_t mask;
    lock_program(&mask);
    struct sigaction before = get_program();
    if (act != NULL) {
        set_program(act);
    }
    unlock_program(&mask);
    if (old != NULL) {
        *old = before;
    }
    return 0;
}

sighandler_t itr_call_signal(int sig, sighandler_t function) {
    if (!is_ours(sig)) {
        return itr_real.signal(sig, function);
    }
    struct sigaction act;
    struct sigaction old;
    memset(&act, 0, sizeof act);
    act.sa_handler = function;
    act.sa_flags = SA_RESTART;
    sigemptyset(&act.sa_mask);
    itr_call_sigaction(sig, &act, &old);
    return old.sa_handler;
}

int itr_call_siginterrupt(int sig, int flag) {
    if (!is_ours(sig) || in_vfork_child()) {
        return itr_real.siginterrupt(sig, flag);
    }
    uint64_t mask;
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

/* An attached thread never really blocks our signal; it reads back what it set. */
static int change_mask(int (*real)(int, const sigset_t *, sigset_t *), int how, const sigset_t *set, sigset_t *old) {
    struct itr_slot *slot = itr_self;
    if (slot == NULL || !atomic_load_explicit(&installed, memory_order_acquire)) {
        return real(how, set, old);
    }
    int sig = itr_signal_number();
    bool blocked = slot->program_blocks;
    sigset_t copy;
    const sigset_t *pass = set;
    bool names_it = set != NULL && sigismember(set, sig) == 1;
    if (names_it && how != SIG_UNBLOCK) {
        copy = *set;
        sigdelset(&copy, sig);
        pass = &copy;
    }
    int result = real(how, pass, old);
    if (result != 0) {
        return result;
    }
    if (set != NULL) {
        if (how == SIG_SETMASK) {
            slot->program_blocks = names_it;
        } else if (names_it) {
            slot->program_blocks = how == SIG_BLOCK;
        }
    }
    if (old != NULL && blocked) {
        sigaddset(old, sig);
    }
    return 0;
}

int itr_call_pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    return change_mask(itr_real.pthread_sigmask, how, set, old);
}

int itr_call_sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    return change_mask(itr_real.sigprocmask, how, set, old);
}
