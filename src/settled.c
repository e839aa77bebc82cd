/* Linux: which objects has the dynamic linker done with?
 *
 * What another thread loads is in the list of dl_iterate_phdr before it is relocated, and nothing public says so: the
 * linker's lock of that list is not held while it relocates, and its lock of loading must not be waited for (whoever
 * holds it may be waiting for us, in a constructor). Two things tell. The list grows at its end alone, so what stood in
 * it while nobody was loading, or long ago, is complete. And the linker makes an object's RELRO pages read-only as its
 * last act of relocating it. */
#include "settled.h"

#include "park.h"

#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SURELY_NS 1000000000 /* to relocate takes milliseconds; for pages that somebody has made writable for good */

/* Under the lock of who asks (late_bind.c). */
static struct list {
    size_t count;
    unsigned long long subs;
} settled, listed;
static int64_t listed_ns;

static int count_object(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct list *list = arg;
    list->count++;
    list->subs = info->dlpi_subs;
    return 0;
}

/* Whoever loads us holds the lock of loading, or is the only thread: all that is there has been relocated. */
void itr_settled_start(void) {
    dl_iterate_phdr(count_object, &settled);
    listed = settled;
    listed_ns = itr_now_ns();
}

/* Each that went since may have been one of the first. */
static size_t still_there(const struct list *list, unsigned long long subs) {
    unsigned long long gone = subs - list->subs;
    return gone < list->count ? list->count - (size_t)gone : 0;
}

size_t itr_settled_count(unsigned long long subs) {
    if (itr_now_ns() - listed_ns > SURELY_NS) {
        settled = listed;
    }
    return still_there(&settled, subs);
}

void itr_settled_listed(size_t count, unsigned long long subs) {
    int64_t now = itr_now_ns();
    if (now - listed_ns > SURELY_NS) {
        settled = listed;
        listed = (struct list){count, subs};
        listed_ns = now;
    }
}

/* The kernel adds 0 to a word there, if it may be written. */
bool itr_relro_is_open(uintptr_t start, uintptr_t end) {
    static uint32_t nobodys;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    start &= ~(page - 1);
    if (start >= (end & ~(page - 1))) {
        return false; /* no whole page: the linker leaves it as it is */
    }
    int saved = errno;
    long result = syscall(SYS_futex, &nobodys, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0L, start,
                          FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0));
    errno = saved;
    return result >= 0; /* else EFAULT; or it cannot be told here */
}
