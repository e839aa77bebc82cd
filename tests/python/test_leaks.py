"""Threads, interrupts and installations leave nothing behind: not in memory, not in descriptors, not in threads.

ITR_TEST_COUNT sets the rounds. What grows with them shows: twice as many may not take noticeably more.
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
thread = started_masked(run_again_and_again)
def action(rounds):
    for _ in range(rounds // 4): it.interrupt(thread).wait()
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
    for _ in range(rounds // 5):
        it.install_patches()
        it.uninstall_patches()
""",
}

#: Sets and dictionaries whose items are hashed anew take a while to find their size.
WARM_UP = {"installations": 4}

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

rounds = int(sys.argv[1])
action(int(sys.argv[2]) * rounds)  # whatever is made once
before = numbers()
action(2 * rounds)
after = numbers()
grown = [b - a for a, b in zip(before, after)]
# However many rounds: caches of the interpreter's and of malloc's breathe by up to half of that.
fine = all(much <= most for much, most in zip(grown, (350, 30000, 2, 1, 256)))
print("fine" if fine else f"grown by blocks, bytes of malloc, descriptors, threads, pages: {grown}")
"""


@pytest.mark.parametrize("what", ACTIONS)
def test_nothing_is_left(what: str) -> None:
    assert run_script(PRELUDE + ACTIONS[what] + MEASURE, str(count(1000)), str(WARM_UP.get(what, 1))) == "fine\n"


@pytest.mark.parametrize("leak", ["kept.append([number])", "ctypes.CDLL(None).malloc(20)"])
def test_growth_is_seen(leak: str) -> None:
    leaks = f"kept = []\ndef action(rounds):\n    for number in range(rounds): {leak}\n"
    assert "grown by" in run_script(PRELUDE + leaks + MEASURE, str(count(1000)), "1")
