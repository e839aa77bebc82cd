/* A library whose constructor and destructor ask for the bind, while the dynamic linker holds its own lock; and loops
 * that make it come and go, and bind and unbind, at once. */
#include <dlfcn.h>
#include <stddef.h>

void load_often(const char *path, int turns);
void bind_often(int turns);

static void call(const char *name) {
    union {
        void *data;
        int (*function)(void);
    } found = {dlsym(RTLD_DEFAULT, name)};
    if (found.data != NULL) {
        found.function();
    }
}

__attribute__((constructor)) static void comes(void) { call("itr_bind"); }
__attribute__((destructor)) static void goes(void) { call("itr_bind"); }

void load_often(const char *path, int turns) {
    for (int i = 0; i < turns; i++) {
        void *handle = dlopen(path, RTLD_NOW);
        if (handle != NULL) {
            dlclose(handle);
        }
    }
}

void bind_often(int turns) {
    for (int i = 0; i < turns; i++) {
        call("itr_bind");
        call("itr_unbind");
    }
}
