"""Threads that wait, or are masked, cost nothing or little, and each of them can be interrupted."""

from __future__ import annotations

import json
import os

import pytest
from support import run_script

THREADS = 1000
#: A moment shows a wake-up as well, if it comes often. A run that ITR_TEST_COUNT makes long looks for longer.
SECONDS = 10.0 if os.environ.get("ITR_TEST_COUNT") else 2.0

SCRIPT = """
import json, os, queue, resource, select, socket, sys, threading, time
from collections import Counter

# Fewer descriptors than threads: most of those that wait in poll() get no self-pipe.
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

from interruptible_threading import ThreadInterrupted, _core, install_patches, interrupt
install_patches()
number, seconds, guard, long = int(sys.argv[1]), float(sys.argv[2]), 60.0, 3000.0

def held(lock):
    lock.acquire()
    return lock

def condition_wait():
    condition = threading.Condition()
    with condition:
        condition.wait()

def with_lock():
    with locked: pass

locked, forever, semaphore = held(threading.Lock()), threading.Event(), threading.Semaphore(0)
a, b = socket.socketpair()
timed, c = socket.socketpair()
timed.settimeout(long)
r, w = os.pipe()
poll = lambda: (lambda p: (p.register(r, select.POLLIN), p.poll(long * 1000)))(select.poll())
ways = [
    locked.acquire, lambda: locked.acquire(timeout=long), with_lock, forever.wait, lambda: forever.wait(long),
    lambda: threading.Event().wait(long), lambda: queue.Queue().get(), lambda: queue.Queue().get(timeout=long),
    lambda: queue.SimpleQueue().get(), semaphore.acquire, condition_wait, lambda: time.sleep(long),
    lambda: a.recv(1), lambda: timed.recv(1), lambda: os.read(r, 1), poll, lambda: select.select([r], [], [], long),
    lambda: threading.current_thread().peer.join(), lambda: held(held(threading.Lock())),
]

class Parked(threading.Thread):
    def __init__(self, way):
        super().__init__(daemon=True)
        self.way, self.caught, self.over, self.peer = way, [], False, threading.main_thread()

    def run(self):
        while not self.over:
            try:
                self.way()
                self.caught.append("returned")
                self.over = True
            except ThreadInterrupted as error:
                self.caught.append(error.interrupt_id)
                self.over = True

def until(condition, what):
    end = time.monotonic() + guard
    while not condition():
        if time.monotonic() > end:
            sys.exit("in vain: " + what())
        time.sleep(0.02)

def is_parked(thread):
    info = thread.ident and _core.park_info(thread.ident)
    return bool(info and info["parked"])

def look():
    # (how many of them sleep, how often they all went to sleep of their own accord)
    asleep = switches = 0
    for thread in threads:
        with open(f"/proc/self/task/{thread.native_id}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        asleep += lines["State"].split()[0] == "S"
        switches += int(lines["voluntary_ctxt_switches"])
    return asleep, switches

threads = [Parked(ways[i % len(ways)]) for i in range(number)]
for thread in threads:
    thread.start()
until(lambda: all(map(is_parked, threads)), lambda: str([_core.park_info(t.ident) for t in threads if not is_parked(t)][:3]))
last = []
def settled():
    last.append(look())
    return last[-1][0] == number and last[-2:-1] == last[-1:]
until(settled, lambda: f"they do not come to rest: {last[-3:]}")
# The program has descriptors left all the same.
for fd in [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]:
    os.close(fd)
before = look()
time.sleep(seconds)
after = look()
handles = [interrupt(thread) for thread in threads]
until(lambda: not any(t.is_alive() for t in threads), lambda: str([h.explain() for h in handles if h.state != "delivered"][:3]))
print(json.dumps({
    "asleep": after[0], "woken": after[1] - before[1], "states": Counter(h.state for h in handles),
    "wrong": [t.caught for t, h in zip(threads, handles) if t.caught != [h.id]],
}))
"""


def test_a_thousand_parked_threads() -> None:
    """None of them wakes up until it is interrupted, then each raises once."""
    seen = json.loads(run_script(SCRIPT, str(THREADS), str(SECONDS)))
    assert seen == {"asleep": THREADS, "woken": 0, "states": {"delivered": THREADS}, "wrong": []}


MASKED = """
import ctypes, json, os, sys, threading, time
from interruptible_threading import ThreadInterrupted, _core, critical_section, install_patches, interrupt
install_patches()
way, seconds = sys.argv[1], float(sys.argv[2])
stop, caught, begun, lock = [], [], threading.Event(), threading.Lock()
lock.acquire()
def computes():
    while not stop: pass
def calls():
    while not stop: time.sleep(0.02)
def parks():
    lock.acquire()
def in_c(sleep=ctypes.CDLL(None).syscall):  # where nobody can tell that it waits
    interval = (ctypes.c_long * 2)(0, 20_000_000)
    while not stop: sleep(35, interval, None)
def body():
    try:
        with critical_section():
            begun.set()
            globals()[way]()
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
thread = threading.Thread(target=body, daemon=True); thread.start()
begun.wait()
handle = interrupt(thread)
def switches():
    # of the library's own threads, which have names
    count = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as file: lines = dict(line.split(":", 1) for line in file)
        except OSError: continue
        if lines["Name"].strip().startswith("itr-"): count += int(lines["voluntary_ctxt_switches"])
    return count
before, start = switches(), time.monotonic()
time.sleep(seconds)
after, end = switches(), time.monotonic()
waited = (caught[:], handle.state)
stop.append(True)
if lock.locked(): lock.release()
thread.join()
print(json.dumps({"waited": waited, "caught": caught == [handle.id], "woken": (after - before) / (end - start)}))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="a system call by number")
@pytest.mark.parametrize("way", ["computes", "calls", "parks", "in_c"])
def test_an_interrupt_that_is_masked(way: str) -> None:
    """It is not asked for all the time: whoever leaves the mask asks."""
    seen = json.loads(run_script(MASKED, way, "2"))
    assert seen.pop("woken") < 150, "times a second"  # it looks every 10 ms for a while, and was asked 900 times
    assert seen == {"waited": [[], "masked"], "caught": True}
