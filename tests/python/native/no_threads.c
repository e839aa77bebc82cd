/* In front of everything else: a process that can have no more threads, while refuse_threads() says so. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

static _Atomic int refused;

void refuse_threads(int yes);
void refuse_threads(int yes) { atomic_store(&refused, yes); }

int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attr, void *(*start)(void *),
                   void *restrict arg) {
    union {
        void *data;
        int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    } real = {dlsym(RTLD_NEXT, "pthread_create")};
    return atomic_load(&refused) ? EAGAIN : real.create(thread, attr, start, arg);
}
