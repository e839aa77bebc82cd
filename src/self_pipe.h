/* Self-pipes: what ends a wait on descriptors. A pipe and not an eventfd, because all eventfds share one inode and
 * nobody could tell ours from the program's. */
#ifndef ITR_SELF_PIPE_H
#define ITR_SELF_PIPE_H

#include "flag_table.h"

/* The read end of the calling thread's pipe, made at the first call. -1 when none can be had. */
int itr_pipe_get(struct itr_slot *slot);
/* Write one byte. Slot locked. False when the pipe is gone: wake by signal instead. */
bool itr_pipe_write(struct itr_slot *slot);
/* Empty it. Target only. */
void itr_pipe_drain(struct itr_slot *slot);
/* Was the pipe closed behind our back? Then it is forgotten. Target only. */
bool itr_pipe_lost(struct itr_slot *slot);
/* Give the pipe to the pool, or close it. */
void itr_pipe_release(struct itr_slot *slot);
/* After fork, in the child: close an inherited pipe. */
void itr_pipe_forget(struct itr_slot *slot);
/* The pool is locked across it. */
void itr_pipe_before_fork(void);
void itr_pipe_after_fork(bool child);
struct itr_pipe_end {
    int fd; /* -1: none */
    dev_t dev;
    ino_t ino;
};

/* The program closes or replaces `fd`. If it is one of ours it is forgotten, and `left` to the program's call: it is
 * not closed here, because the number would be free for a moment. */
void itr_pipe_fd_going(int fd, struct itr_pipe_end *left);
/* That call has failed, and will not be made again: close what it has left. Keeps errno. */
void itr_pipe_fd_stays(const struct itr_pipe_end *left);
/* The program closes fds [first, last]. Ours are closed here and now: its call may fail, or may see to a table of the
 * calling thread's own. */
void itr_pipe_fds_going(unsigned first, unsigned last);

#endif
