/* The wake-up signal.
 *
 * At most one wake-up signal per thread is on its way at any time (sig_sent != sig_seen), so the handler can say which
 * one it has seen by copying sig_sent. It carries a mark; one without, that somebody else raised, goes to the program.
 */
#include "signals.h"

#include "disposition.h"
#include "preload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

static _Atomic int number; /* 0: not chosen yet */
static _Atomic bool installed;
static _Atomic bool cannot_mark; /* a sandbox refuses the call that a mark needs */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

/* But the two that libc keeps for itself, which each thread must take. By system call here too: libc's own function
 * would let these through when it sets a mask back, and one that the caller waits for (the monitor does, and libc's
 * thread for timers) would kill the process. */
void itr_signals_block(uint64_t *before) {
    const uint64_t most = ~(UINT64_C(3) << 31);
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &most, before, sizeof most);
}

void itr_signals_restore(const uint64_t *before) {
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, sizeof *before);
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

static void install_once(void) {
    if (atomic_load_explicit(&installed, memory_order_acquire)) {
        return;
    }
    pthread_mutex_lock(&install_lock);
    if (!atomic_load_explicit(&installed, memory_order_relaxed) && itr_disposition_take(itr_signal_number())) {
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

void itr_signal_handler(int sig, siginfo_t *info, void *context) {
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
    itr_disposition_hand_on(sig, info, context);
    errno = saved;
}

bool itr_signals_ours(void) {
    struct sigaction now;
    return atomic_load_explicit(&installed, memory_order_acquire) &&
           itr_real.sigaction(itr_signal_number(), NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
           now.sa_sigaction == itr_signal_handler;
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
    if (ours && tries >= 16 && itr_signal_number() != first && itr_disposition_take(first)) {
        /* This thread blocks the number we moved to, and only it could change that. So take the first one back: the
         * handler that the other runtime put there is the program's now, and gets what is not ours. */
        atomic_store_explicit(&number, first, memory_order_relaxed);
    }
    for (int sig = SIGRTMAX - 2; sig >= SIGRTMIN && !ours; sig--) {
        struct sigaction now;
        if (itr_real.sigaction(sig, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL &&
            itr_disposition_take(sig)) {
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
    itr_disposition_after_fork();
}

bool itr_signal_is(int sig) {
    return atomic_load_explicit(&installed, memory_order_acquire) && sig == itr_signal_number();
}

void itr_signals_strip(sigset_t *set) {
    if (atomic_load_explicit(&installed, memory_order_acquire)) {
        sigdelset(set, itr_signal_number());
    }
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
