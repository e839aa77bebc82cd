#include "breaks.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void clear(void *arg) { *(int *)arg = itr_clear(); }

void do_read(void *arg) {
    struct reader *r = arg;
    char byte;
    r->result = read(r->ends[0], &byte, 1);
    r->error = errno;
}

int breaks(struct worker *w) {
    struct reader r;
    int cleared = 0;
    EXPECT(pipe(r.ends) == 0);
    worker_give(w, do_read, &r);
    await_parked(w->thread, "read");
    EXPECT(itr_interrupt(w->thread) == ITR_OK);
    worker_wait(w);
    EXPECT(r.result == -1);
    EXPECT(r.error == ECANCELED);
    worker_do(w, clear, &cleared);
    EXPECT(cleared == 1);
    close(r.ends[0]);
    close(r.ends[1]);
    return 0;
}

bool comes(_Atomic int *seen, int count) {
    for (int64_t since = now_ns(); *seen < count && now_ns() - since < PATIENCE_NS;) {
        breathe();
    }
    return *seen == count;
}

pid_t child_sends(int sig, bool queued, union sigval value, pid_t thread) {
    pid_t to = getpid();
    pid_t child = fork();
    if (child == 0) {
        int sent = queued        ? sigqueue(to, sig, value)
                   : thread != 0 ? (int)syscall(SYS_tgkill, to, thread, sig)
                                 : kill(to, sig);
        _exit(sent == 0 ? 0 : 1);
    }
    int status = -1;
    while (child > 0 && waitpid(child, &status, 0) == -1 && errno == EINTR) { /* our handler restarts nothing */
    }
    return status == 0 ? child : -1;
}
