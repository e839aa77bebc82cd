/* The real functions behind the interposed ones, and the wrappers' hidden names. Generated from calls.def. */
#ifndef ITR_PRELOAD_H
#define ITR_PRELOAD_H

#include "libc_types.h"

#include <stdbool.h>

struct itr_real_calls {
#define ITR_ROW(ret, name, kind, class_, fd, params, args) ret(*name) params;
#include "calls.def"
#undef ITR_ROW
};
extern struct itr_real_calls itr_real;

/* The wrappers. */
#define ITR_ROW(ret, name, kind, class_, fd, params, args) ret itr_call_##name params;
#include "calls.def"
#undef ITR_ROW

/* Whether the process's calls reach us: preloaded, or rebound. */
bool itr_preloaded(void);

#endif
