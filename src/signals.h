/* The wake-up signal: ours to send and to handle, while the program goes on seeing its own disposition and mask. */
#ifndef ITR_SIGNALS_H
#define ITR_SIGNALS_H

#include "flag_table.h"

#include <signal.h>

/* Number of the signal in use; SIGURG unless INTERRUPTIBLE_SIGNAL names another one. */
int itr_signal_number(void);
/* True for that signal, once the handler has been installed. */
bool itr_signal_is(int sig);
void itr_signal_handler(int sig, siginfo_t *info, void *context);
/* First attach installs the handler; every attach makes sure that the thread does not block the signal. */
void itr_signals_attach(struct itr_slot *slot);
/* The calling thread blocks the signal again, if the program has it blocked. */
void itr_signals_detach(const struct itr_slot *slot);
/* Send it to the thread of `slot` (locked). */
void itr_signal_send(struct itr_slot *slot);
/* Send it to the process's main thread, which need not be attached. */
void itr_signal_main(void);
/* The monitor has repeated in vain: has another runtime taken the signal, or is it blocked? Moves to another free
 * signal when it can. Slot not locked. */
void itr_signals_doctor(struct itr_slot *slot, uint32_t tries);
/* True when the handler is really installed. */
bool itr_signals_ours(void);
/* Block every signal while a thread is started that is to block them, and undo that. */
void itr_signals_block(uint64_t *before);
void itr_signals_restore(const uint64_t *before);
/* In the child of a fork. */
void itr_signals_after_fork(void);
/* Take our signal out of a set that the program waits with. */
void itr_signals_strip(sigset_t *set);

#endif
