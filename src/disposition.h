/* The disposition that the program believes our signal to have. */
#ifndef ITR_DISPOSITION_H
#define ITR_DISPOSITION_H

#include <signal.h>
#include <stdbool.h>

/* Install our handler for `sig`; what was there is the program's from now. */
bool itr_disposition_take(int sig);
/* In our handler: to the program goes what is not a wake-up. */
void itr_disposition_hand_on(int sig, siginfo_t *info, void *context);
/* In the child of a fork. */
void itr_disposition_after_fork(void);

#endif
