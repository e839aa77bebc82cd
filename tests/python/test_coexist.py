"""Beside others: another library's asynchronous exceptions, and an interpreter that ends while interrupts are pending."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, _core, interrupt
from native_support import library
from stress_support import count, plain_interrupt, rng, spin, until
from support import LONG, run_python, run_script


class Foreign(Exception):
    """What the other library raises."""


def sleep() -> None:
    time.sleep(LONG)


def lock() -> None:
    held = threading.Lock()
    with held, held:
        pass


def read() -> None:
    os.read(os.pipe()[0], 1)


def loop() -> None:
    while True:
        pass


def one_line_loop() -> None:
    while 1: pass  # fmt: skip  # noqa: E701 - no line event, so up to 3.11 nothing but an async exception gets there


def calls() -> None:
    n = 0
    while True:
        n = len(str(n))


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Theirs may hit a weakref's callback in a collection, which prints and forgets it."""
    gc.disable()
    yield
    gc.enable()


class Both(threading.Thread):
    """Is where it is told, then in Python code, until it has caught two exceptions."""

    def __init__(self, first: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        super().__init__(daemon=True)
        self.first, self.then = first, then or self.rest
        self.ready = False
        self.pile: list[BaseException] = []
        self.start()

    def run(self) -> None:
        try:
            try:
                self.ready = True
                self.first()
            except BaseException as error:
                self.pile.append(error)
            self.then()
        except BaseException as error:
            self.pile.append(error)

    def rest(self) -> None:
        """Both may have come in the first call. No library code here: its weakrefs have callbacks too."""
        while len(self.found()) < 2:
            pass

    def found(self) -> dict[int, BaseException]:
        """One that came while the other was being handled has it as its context."""
        found: dict[int, BaseException] = {}
        for error in self.pile:
            each: BaseException | None = error
            while each is not None:
                found[id(each)] = each
                each = each.__context__
        return found

    def caught(self) -> Counter[str]:
        """By type."""
        return Counter(type(error).__name__ for error in self.found().values())

    def is_parked(self) -> bool:
        info = _core.park_info(self.ident or 0)
        return bool(info and info["parked"])


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@pytest.mark.parametrize("first", [sleep, lock, loop, one_line_loop, calls])
def test_async_exception_of_another_library(first: Callable[[], None], order: str, quiet: None, no_collection: None) -> None:
    """Both arrive, each once, wherever the thread is."""
    random = rng(first.__name__, order)
    for _ in range(count(20)):
        thread = Both(first, one_line_loop if first is one_line_loop else None)
        until(lambda thread=thread: thread.ready, "it runs")
        if first in (sleep, lock):
            until(thread.is_parked, "it is parked")
        else:
            spin(random.randrange(5000))
        if order == "theirs first":
            assert plain_interrupt(thread, Foreign)
            spin(random.choice((0, 10, 1000)))
        handle = interrupt(thread)
        if order == "ours first":
            spin(random.choice((0, 10, 1000, 100000)))
            assert plain_interrupt(thread, Foreign)
        until(lambda thread=thread: not thread.is_alive(), lambda thread=thread: f"{thread.caught()}, {handle.explain()}")
        assert thread.caught() == {"ThreadInterrupted": 1, "Foreign": 1}
        assert handle.state == "delivered"


def test_their_recall_does_not_take_ours(quiet: None) -> None:
    """PyThreadState_SetAsyncExc(thread, NULL) takes back what they had set; ours comes all the same."""
    recall = ctypes.PyDLL(None).PyThreadState_SetAsyncExc
    recall.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    for _ in range(count(20)):
        thread = Both(one_line_loop, one_line_loop)
        until(lambda thread=thread: thread.ready, "it runs")
        handles = [interrupt(thread)]
        recall(thread.ident, None)
        until(lambda thread=thread: thread.pile, handles[0].explain)
        handles.append(interrupt(thread))
        recall(thread.ident, None)
        until(lambda thread=thread: not thread.is_alive(), handles[1].explain)
        assert [type(error) for error in thread.pile] == [ThreadInterrupted] * 2


def test_theirs_is_not_taken_by_a_mask(quiet: None, no_collection: None) -> None:
    """Only ours are held back; recalling an armed one leaves theirs alone."""
    for _ in range(count(20)):
        go: list[Any] = []

        def masked(go: list[Any] = go) -> None:
            _core.mask(2)
            while not go:
                pass
            while True:
                time.sleep(0)
                _core.mask(2)
                _core.unmask(2)

        thread = Both(masked, lambda: (_core.unmask(2), loop())[0])
        until(lambda thread=thread: thread.ready, "it runs")
        handle = interrupt(thread)
        plain_interrupt(thread, Foreign)
        go.append(True)
        until(lambda thread=thread: not thread.is_alive(), lambda thread=thread: f"{thread.caught()}, {handle.explain()}")
        assert thread.caught() == {"ThreadInterrupted": 1, "Foreign": 1}
        assert type(thread.pile[0]) is Foreign


PRELUDE = """
import atexit, ctypes, os, queue, socket, sys, threading, time
import interruptible_threading as it
from interruptible_threading import _core, ThreadInterrupted
it.install_patches()

def start(function, daemon=True):
    thread = threading.Thread(target=function, daemon=daemon)
    thread.start()
    return thread

def parked(*threads):
    while not all(t.ident and (_core.park_info(t.ident) or {}).get("parked") for t in threads):
        time.sleep(0.0002)
    return threads

# Those that an interrupt finds in their mask or their `try`.
inside = []
def all_inside(*threads):
    while len(inside) < len(threads): time.sleep(0.0002)
    return threads

def again_and_again(call):
    def body():
        _core.mask(2)  # what comes between two rounds would come out of the thread
        inside.append(1)
        while True:
            try:
                _core.unmask(2)
                call()
                _core.mask(2)
            except ThreadInterrupted:
                _core.mask(2)
    return body

def spin():
    n = 0
    while True:
        n += 1

a, b = socket.socketpair()
timed, other = socket.socketpair()
timed.settimeout(3000)
r, w = os.pipe()
held = threading.Lock()
held.acquire()
calls = [
    held.acquire, lambda: held.acquire(timeout=3000), threading.Event().wait, lambda: queue.Queue().get(),
    lambda: queue.SimpleQueue().get(), lambda: time.sleep(3000), lambda: a.recv(1), lambda: timed.recv(1), lambda: os.read(r, 1),
    lambda: threading.main_thread().join(),
]
"""

ENDINGS = {
    "parked": "parked(*map(start, calls))",
    "parked and interrupted": "[it.interrupt(t) for t in parked(*all_inside(*[start(again_and_again(c)) for c in calls])) * 3]",
    "running and interrupted": "[it.interrupt(t) for t in all_inside(*[start(again_and_again(spin)) for _ in range(4)]) * 3]",
    "masked": """
def body():
    with it.critical_section():
        inside.append(1)
        time.sleep(3000)
threads = [start(body) for _ in range(3)]
[it.interrupt(t) for t in parked(*all_inside(*threads))]
""",
    "masked and running": """
def body():
    with it.critical_section():
        inside.append(1)
        spin()
[it.interrupt(t) for t in all_inside(*[start(body) for _ in range(3)])]
""",
    "masked until the main thread has ended": """
def body():
    with it.critical_section():
        inside.append(1)
        threading.main_thread().join()
        time.sleep(0.001)
        it.clear_interrupt()
threads = [start(body, daemon=False) for _ in range(3)]
[it.interrupt(t) for t in parked(*all_inside(*threads))]
""",
    "interrupted by an atexit function": """
stopped = []
def body():
    try:
        inside.append(1)
        spin()
    except ThreadInterrupted:
        stopped.append(1)
threads = all_inside(*[start(body) for _ in range(2)])
@atexit.register
def end():
    for thread in threads:
        it.interrupt(thread)
        thread.join()
    assert stopped == [1, 1]
""",
    "waited for": """
def body():
    try:
        inside.append(1)
        time.sleep(3000)
    except ThreadInterrupted:
        pass
threads = [start(body, daemon=False) for _ in range(3)]
[it.interrupt(t) for t in parked(*all_inside(*threads))]
""",
    "never started": "threads = [it.InterruptibleThread(target=print) for _ in range(3)]; [t.interrupt() for t in threads]",
    "from outside": """
storm = ctypes.CDLL(sys.argv[1])
storm.storm_start.restype = ctypes.c_void_p
threads = all_inside(*[start(again_and_again(c)) for c in [*calls, spin]])
parked(*threads[:-1])
idents = (ctypes.c_ulong * len(threads))(*(t.ident for t in threads))
send = ctypes.cast(ctypes.CDLL(it.status()["library"]).itr_interrupt, ctypes.c_void_p)
assert storm.storm_start(send, 0, idents, len(threads), ctypes.c_uint64(os.getpid()), 50000)
time.sleep(0.01)
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exit(ending: str) -> None:
    """Exit status 0, nothing on standard error, no hang."""
    native = library()._name if "argv" in ENDINGS[ending] else ""
    for _ in range(min(count(3), 100)):
        done = run_python("-c", PRELUDE + ENDINGS[ending] + "\nprint('end')", native)
        if done.returncode == -signal.SIGSEGV and sys.version_info < (3, 12):
            # A daemon thread that comes by the interpreter's lock at the very end reads an interpreter that is no more
            # (take_gil()): plain CPython 3.10 ends so as well, 3 of 1,800 times. Not twice in a row.
            done = run_python("-c", PRELUDE + ENDINGS[ending] + "\nprint('end')", native)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


OVERWRITTEN = """
import ctypes, os, sys, threading, time
def refuse(event, args):  # so that what is armed is an asynchronous exception (up to 3.11)
    if event == "sys.settrace": raise RuntimeError
sys.addaudithook(refuse)
from interruptible_threading import ThreadInterrupted, install_patches, interrupt
install_patches()
class Foreign(Exception): pass
arm = ctypes.pythonapi.PyThreadState_SetAsyncExc
arm.argtypes = [ctypes.c_ulong, ctypes.py_object]
def runs(pile, level=9):
    # Either may come while the other is being handled, and where a loop begins anew: the next loop farther out has it then.
    while not stop:
        try:
            if level: runs(pile, level - 1)
            begun.add(id(pile))
            while not stop: pass
        except BaseException as error: pile.append(error)
def caught(pile):
    found = {}
    for error in pile[:]:
        while error is not None:
            found[id(error)] = error
            error = error.__context__
    return sorted(error.interrupt_id for error in found.values() if isinstance(error, ThreadInterrupted))
stop, begun, piles = [], set(), ([], [])
threads = [threading.Thread(target=runs, args=(pile,), daemon=True) for pile in piles]
for thread in threads: thread.start()
while len(begun) < len(piles): time.sleep(0.001)
sent = ([], [])
for turn in range(6):
    handles = [interrupt(thread) for thread in threads]
    for handle, ids in zip(handles, sent): ids.append(handle.id)
    for _ in range(20):
        for thread in threads: arm(thread.ident, Foreign)
        time.sleep(0.0003)
    while not all(handle.wait(1) for handle in handles): pass
    while [*map(caught, piles)] != [*map(sorted, sent)]: time.sleep(0.001)
print("each once", flush=True)
os._exit(0)
"""


def test_what_another_library_overwrites_is_not_delivered() -> None:
    """It takes the place of what is armed: that comes again."""
    assert run_script(OVERWRITTEN) == "each once\n"
