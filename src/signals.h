/* The wake-up signal: ours to send and to handle, while the program goes on seeing its own disposition and mask. */
#ifndef ITR_SIGNALS_H
#define ITR_SIGNALS_H

#include "flag_table.h"

#include <signal.h>

/* Number of the signal in use; SIGURG unless INTERRUPTIBLE_SIGNAL names another one. */
int itr_signal_number(void);
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
/* In the child of a fork. */
void itr_signals_after_fork(void);
/* Take our signal out of a set that the program waits with. */
void itr_signals_strip(sigset_t *set);

#endif
