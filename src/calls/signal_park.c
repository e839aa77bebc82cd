/* The bodies of all SIGNAL rows of calls.def: a call that a signal ends before it has done anything, and that says so
 * with -1 and EINTR. */
#include "calls/signal_park.h"

#include "preload.h"

/* A call that cannot wait is never broken: a thread that is to stop must be able to let go of what it holds. Said here
 * for the functions whose arguments tell, in terms of their parameters. */
#define NO_WAIT_recv ~, (flags & MSG_DONTWAIT) != 0
#define NO_WAIT___recv_chk NO_WAIT_recv
#define NO_WAIT_recvfrom NO_WAIT_recv
#define NO_WAIT___recvfrom_chk NO_WAIT_recv
#define NO_WAIT_recvmsg NO_WAIT_recv
#define NO_WAIT_recvmmsg NO_WAIT_recv
#define NO_WAIT_send NO_WAIT_recv
#define NO_WAIT_sendto NO_WAIT_recv
#define NO_WAIT_sendmsg NO_WAIT_recv
#define NO_WAIT_sendmmsg NO_WAIT_recv
#define NO_WAIT_flock ~, (operation & (LOCK_UN | LOCK_NB)) != 0
#define NO_WAIT_lockf ~, command != F_LOCK
#define NO_WAIT_lockf64 NO_WAIT_lockf
#define NO_WAIT_waitpid ~, (options & WNOHANG) != 0
#define NO_WAIT_wait3 NO_WAIT_waitpid
#define NO_WAIT_wait4 NO_WAIT_waitpid
#define NO_WAIT_waitid NO_WAIT_waitpid
#define NO_WAIT_msgrcv ~, (flags & IPC_NOWAIT) != 0
#define NO_WAIT_msgsnd NO_WAIT_msgrcv
#define SECOND_OF(ignored, second, ...) second
#define SECOND(...) SECOND_OF(__VA_ARGS__)
#define CANNOT_WAIT(name) SECOND(NO_WAIT_##name, false, ~)

#define BODY_CUSTOM(ret, name, class_, fd, params, args)
#define BODY_VARARGS(ret, name, class_, fd, params, args)
#define BODY_VOID(ret, name, class_, fd, params, args)
#define BODY_SIGNAL(ret, name, class_, fd, params, args)                                                               \
    ret itr_call_##name params {                                                                                       \
        if (ITR_LIKELY(itr_self == NULL) || CANNOT_WAIT(name)) {                                                       \
            return itr_real.name args;                                                                                 \
        }                                                                                                              \
        ITR_NOTE_CALLER();                                                                                             \
        ret result;                                                                                                    \
        ITR_RUN_SIGNAL_PARK(result, class_, #name, fd, itr_real.name args, -1);                                        \
        return result;                                                                                                 \
    }
#define ITR_ROW(ret, name, body, class_, fd, params, args) BODY_##body(ret, name, class_, fd, params, args)
#include "calls.def"
#undef ITR_ROW
