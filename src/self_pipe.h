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
void itr_pipe_pool_after_fork(void);
/* The program closes or replaces fds [first, last]: those of ours are gone. */
void itr_pipe_fds_going(unsigned first, unsigned last);

#endif
