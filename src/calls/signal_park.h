/* Run a call as a park that a signal ends. For the generated bodies and for the hand-written ones that need no more. */
#ifndef ITR_SIGNAL_PARK_H
#define ITR_SIGNAL_PARK_H

#include "park.h"

#include <errno.h>

#define ITR_LIKELY(x) __builtin_expect(!!(x), 1)

/* `result` is assigned from `call`, again after a stale wake-up; `broken` when the interrupt is reported through it. */
#define ITR_RUN_SIGNAL_PARK(result, class_, name, fd, call, broken_result)                                             \
    do {                                                                                                               \
        struct itr_park park_;                                                                                         \
        if (!itr_park_begin(&park_, ITR_PARK_SIGNAL, (class_), (name), (fd))) {                                        \
            (result) = (call);                                                                                         \
            break;                                                                                                     \
        }                                                                                                              \
        (result) = (broken_result);                                                                                    \
        bool again_;                                                                                                   \
        do {                                                                                                           \
            again_ = false;                                                                                            \
            if (itr_park_enter(&park_)) {                                                                              \
                (result) = (call);                                                                                     \
                again_ = itr_park_leave(&park_, (result) == -1 && errno == EINTR);                                     \
            }                                                                                                          \
        } while (again_);                                                                                              \
        if (park_.broken) {                                                                                            \
            (result) = (broken_result);                                                                                \
            errno = itr_break_errno(&park_);                                                                           \
        }                                                                                                              \
    } while (0)

#endif
