"""Threads, interrupts and installations leave nothing behind: not in memory, not in descriptors, not in threads.

Each is done n, 2n and 4n times in one process, and only what grows with the number is a leak: the slope between the first
stretch and the last must be below half of the smallest thing that could be left each time. Caches of the interpreter's and
of malloc's breathe by some hundred blocks in whatever time, which is no slope; to make one of it, they would have to grow
by 1.5 n blocks more in the last stretch than in the first, and to hide a leak shrink by as much. ITR_TEST_COUNT sets n.
"""

from __future__ import annotations

import pytest
from stress_support import count
from support import run_script

PRELUDE = """
import ctypes, gc, os, sys, threading, time
import interruptible_threading as it
from interruptible_threading import _core, ThreadInterrupted
it.install_patches()
shim = ctypes.CDLL(it.status()["library"])
shim.itr_interrupt.argtypes = [ctypes.c_ulong]

def started(body):
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread

def started_masked(run):
    inside = []
    def body():
        _core.mask(2)
        inside.append(1)
        run()
    thread = started(body)
    while not inside: time.sleep(0)
    return thread

def asleep(thread):
    # Not in a lock on its way there: it would be interrupted in the first line of its function.
    while True:
        info = _core.park_info(thread.ident)
        if info and info["parked"] and info["call"] in ("clock_nanosleep", "nanosleep", "select"): return
        time.sleep(0)

def sleep_again_and_again():
    while not stop:
        try:
            _core.unmask(2)
            time.sleep(3000)
        except ThreadInterrupted:
            _core.mask(2)

def run_again_and_again():
    while not stop:
        try:
            _core.unmask(2)
            while not stop: pass
            _core.mask(2)
        except ThreadInterrupted:
            _core.mask(2)

stop = []
"""

ACTIONS = {
    "threads": """
def body(): pass
def action(rounds):
    for _ in range(rounds): started(body).join()
""",
    "threads that are interrupted": """
def body():
    try: time.sleep(3000)
    except ThreadInterrupted: pass
def action(rounds):
    for _ in range(rounds):
        thread = started(body)
        asleep(thread)
        it.interrupt(thread)
        thread.join()
""",
    "interrupts of a parked thread": """
thread = started_masked(sleep_again_and_again)
def action(rounds):
    for number in range(rounds): it.interrupt(thread, reason=str(number)).wait()
""",
    "interrupts of a running thread": """
sys.setswitchinterval(1e-4)  # whoever waits for one does not wait for its turn as well
thread = started_masked(run_again_and_again)
def action(rounds):
    for _ in range(rounds): it.interrupt(thread).wait()
""",
    "interrupts from C": """
thread = started_masked(sleep_again_and_again)
def action(rounds):
    for _ in range(rounds):
        assert shim.itr_interrupt(thread.ident) == 0
        while it.is_interrupted(thread): time.sleep(0)
""",
    "what is taken back, and what never starts": """
thread = started_masked(lambda: time.sleep(3000))
def action(rounds):
    for _ in range(rounds):
        assert it.interrupt(thread).cancel()
        it.interrupt(it.InterruptibleThread(target=print))
""",
    "installations": """
it.uninstall_patches()
def action(rounds):
    for _ in range(rounds):
        it.install_patches()
        it.uninstall_patches()
""",
}

#: Times n is this: one takes some milliseconds.
SLOW = {"installations": 0.5}

MEASURE = """
class Malloc(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keep".split()]
libc = ctypes.CDLL(None)
if hasattr(libc, "mallinfo2"): libc.mallinfo2.restype = Malloc

def numbers():
    for _ in range(3): gc.collect()
    for _ in range(1000):  # joined, and not quite gone
        threads = len(os.listdir("/proc/self/task")) - _core.status()["monitor"]
        if threads <= threading.active_count() + 1: break
        time.sleep(0.01)
    with open("/proc/self/statm") as file: pages = int(file.read().split()[1])
    malloc = libc.mallinfo2() if hasattr(libc, "mallinfo2") else Malloc()
    return sys.getallocatedblocks(), malloc.uordblks + malloc.hblkhd, len(os.listdir("/proc/self/fd")), threads, pages

n = int(sys.argv[1])
action(n)  # whatever is made once, and what finds its size
at = [numbers()]
for times in (1, 2, 4):
    action(times * n)
    at.append(numbers())
first, last = ([b - a for a, b in zip(*pair)] for pair in (at[:2], at[2:]))
slopes = [(b - a) / (3 * n) for a, b in zip(first, last)]
# malloc() gives 32 bytes at least; a thread's stack, or a mapping, has a page.
fine = all(slope < least / 2 for slope, least in zip(slopes, (1, 32, 1, 1, 1)))
print("fine" if fine else f"blocks, bytes of malloc, descriptors, threads, pages: {at}, {slopes} each time")
"""


@pytest.mark.parametrize("what", ACTIONS)
def test_nothing_is_left(what: str) -> None:
    n = int(count(1000) * SLOW.get(what, 1))
    assert run_script(PRELUDE + ACTIONS[what] + MEASURE, str(n)) == "fine\n"


@pytest.mark.parametrize(
    "leak", ["kept.append([number])", "ctypes.CDLL(None).malloc(20)", "os.dup(0)", "started(lambda: time.sleep(3000))"]
)
def test_growth_is_seen(leak: str) -> None:
    leaks = f"kept = []\ndef action(rounds):\n    for number in range(rounds): {leak}\n"
    n = count(1000) if "kept" in leak or "malloc" in leak else 100  # of others there cannot be that many
    assert "each time" in run_script(PRELUDE + leaks + MEASURE, str(n))
