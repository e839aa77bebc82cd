/* Finds the shim, or loads it, and asks for its functions. */
#include "core.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

const struct itr_stub_api *itr_api;
char *itr_library_path;

typedef const struct itr_stub_api *(*api_function)(void);

#define SHIM "libinterruptible.so"

static int find_shim(struct dl_phdr_info *info, size_t size, void *path) {
    (void)size;
    const char *slash = info->dlpi_name == NULL ? NULL : strrchr(info->dlpi_name, '/');
    if (slash == NULL || strcmp(slash + 1, SHIM) != 0) {
        return 0;
    }
    *(char **)path = strdup(info->dlpi_name);
    return 1;
}

/* There must be one flag table in a process: a copy of the shim that is here already is the one to use, be it preloaded
 * or loaded with ctypes, where no other object sees its symbols. Else the copy beside this module. */
static void *load_shim(const char *own_file) {
    char *path = NULL;
    dl_iterate_phdr(find_shim, &path);
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    free(path);
    if (library != NULL) {
        return library;
    }
    const char *slash = strrchr(own_file, '/');
    size_t n = slash == NULL ? 0 : (size_t)(slash - own_file) + 1;
    char *beside = PyMem_RawMalloc(n + sizeof SHIM);
    if (beside == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(beside, own_file, n);
    strcpy(beside + n, SHIM);
    library = dlopen(beside, RTLD_NOW | RTLD_GLOBAL);
    PyMem_RawFree(beside);
    if (library == NULL) {
        PyErr_Format(PyExc_ImportError, "cannot load the shim: %s", dlerror());
    }
    return library;
}

static api_function find_api(const char *own_file) {
    union {
        void *data;
        api_function function;
    } symbol = {dlsym(RTLD_DEFAULT, "itr_stub_api")};
    if (symbol.data == NULL) {
        void *library = load_shim(own_file);
        if (library == NULL) {
            return NULL;
        }
        symbol.data = dlsym(library, "itr_stub_api");
        if (symbol.data == NULL) {
            PyErr_SetString(PyExc_ImportError, SHIM " is not this package's shim: it has no itr_stub_api");
        }
    }
    return symbol.function;
}

int itr_load_api(void) {
    Dl_info own;
    if (dladdr((void *)(uintptr_t)&itr_api, &own) == 0 || own.dli_fname == NULL) {
        PyErr_SetString(PyExc_ImportError, "cannot tell where _core was loaded from");
        return -1;
    }
    api_function function = find_api(own.dli_fname);
    if (function == NULL) {
        return -1;
    }
    const struct itr_stub_api *api = function();
    if (api->abi != ITR_ABI_VERSION || api->slot_size != sizeof(struct itr_slot) ||
        api->size != sizeof(struct itr_stub_api)) {
        PyErr_Format(
            PyExc_ImportError,
            "libinterruptible.so has ABI version %u%s, this _core was built for %u: preload the copy that came "
            "with this package, or none",
            (unsigned)api->abi, api->abi == ITR_ABI_VERSION ? " of another build" : "", ITR_ABI_VERSION);
        return -1;
    }
    Dl_info shim;
    if (dladdr((void *)(uintptr_t)function, &shim) != 0 && shim.dli_fname != NULL && itr_library_path == NULL) {
        itr_library_path = strdup(shim.dli_fname);
    }
    itr_api = api;
    return 0;
}
