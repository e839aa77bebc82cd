/* How often a thread that runs Python code is asked to look where it stands: what pending_call.c and asyncexc.c share.
 */
#ifndef ITR_ASK_H
#define ITR_ASK_H

#include <stdint.h>

#define FIRST_ASK_NS 20000
#define MOST_ASK_NS 1000000
#define SLOW_ASK_NS 10000000

#define CLOSED_ASK_NS 1000000000

/* Where nothing may be raised. Leaving that state asks anew, so this is for the case that somebody forgets to. */
static inline int64_t itr_ask_delay_closed(uint32_t tries) {
    int64_t delay = FIRST_ASK_NS;
    for (uint32_t i = 0; i < tries && delay < CLOSED_ASK_NS; i++) {
        delay *= 2;
    }
    return delay < CLOSED_ASK_NS ? delay : CLOSED_ASK_NS;
}

static inline int64_t itr_ask_delay(uint32_t tries) {
    int64_t delay = FIRST_ASK_NS;
    for (uint32_t i = 0; i < tries && delay < MOST_ASK_NS; i++) {
        delay *= 2;
    }
    return tries > 300 ? SLOW_ASK_NS : delay < MOST_ASK_NS ? delay : MOST_ASK_NS;
}

#endif
