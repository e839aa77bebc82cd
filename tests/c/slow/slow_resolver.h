/* libc's resolver with a gate in front of it: one name and one address are looked up when the gate is open, the rest at
 * once. A library, so that the shim, which looks behind itself for the real functions, finds these. */
#ifndef TESTS_SLOW_RESOLVER_H
#define TESTS_SLOW_RESOLVER_H

#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#define SLOW_NAME "slow.example"  /* stands for localhost */
#define SLOW_ADDRESS "127.0.0.77" /* for 127.0.0.1 */

extern _Atomic bool slow_open;
extern _Atomic int slow_inside; /* calls waiting for the gate */
extern _Atomic int slow_lists;  /* lists given and not yet freed */
extern _Atomic int slow_tid;    /* the thread of the last one */

#endif
