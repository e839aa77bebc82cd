"""@uninterruptible, and finalizers: code that is not cut between two instructions."""

from __future__ import annotations

import time

import pytest
from interruptible_threading import interrupt, is_interrupted, uninterruptible
from support import GUARD, LONG, SLEEP, Worker, assert_interrupted, parked, run_script, wait_until


def until_interrupted() -> None:
    while not is_interrupted():
        pass


def test_uninterruptible_function(quiet: None) -> None:
    reached: list[str] = []
    steps: list[str] = []

    @uninterruptible
    def whole() -> None:
        reached.append("running")
        until_interrupted()
        sum(1 for _ in range(100_000))
        steps.append("whole")

    def call() -> None:
        whole()
        while True:
            pass

    worker = Worker(call)
    wait_until(lambda: reached, "the function runs")
    assert_interrupted(worker, interrupt(worker))
    assert steps == ["whole"]


def test_uninterruptible_blocking_call_raises(quiet: None) -> None:
    @uninterruptible
    def whole() -> None:
        time.sleep(LONG)

    worker = Worker(whole)
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker))


def test_uninterruptible_methods() -> None:
    class Class:
        @staticmethod
        @uninterruptible
        def one() -> int:
            return 1

        @uninterruptible
        @classmethod
        def two(cls) -> int:
            return 2

        @uninterruptible
        def three(self) -> int:
            return 3

    assert (Class.one(), Class.two(), Class().three()) == (1, 2, 3)


def test_uninterruptible_does_not_crawl_while_an_interrupt_waits(quiet: None) -> None:
    """A look at each of these calls, which is one at the whole stack above them, takes some hundred times as long as the call."""
    reached: list[str] = []
    took: list[float] = []

    def nothing() -> None:
        pass

    def calls(depth: int) -> None:
        if depth > 0:
            calls(depth - 1)
        else:
            begun = time.thread_time()  # what others do meanwhile does not count
            for _ in range(100_000):
                nothing()
            took.append(time.thread_time() - begun)

    @uninterruptible
    def whole() -> None:
        calls(300)
        reached.append("running")
        until_interrupted()
        calls(300)
        reached.append("whole")

    def call() -> None:
        whole()
        while True:
            pass

    worker = Worker(call)
    wait_until(lambda: reached, "the function runs")
    assert_interrupted(worker, interrupt(worker))
    assert reached == ["running", "whole"]
    assert took[1] < 20 * took[0], took


FINALIZER = """
import gc, sys, threading, time
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
steps, caught = [], []
class Finalized:
    def __del__(self):
        steps.append("begun")
        if sys.argv[1] == "call": time.sleep(10**6)
        while not it.is_interrupted(): pass
        steps.append("whole")
def body():
    try:
        thing = Finalized()
        del thing
        steps.append("after")
        time.sleep(10**6)
    except it.ThreadInterrupted as error: caught.append((type(error) is it.ThreadInterrupted, error.reason, error.interrupt_id))
thread = threading.Thread(target=body, daemon=True); thread.start()
while not steps or sys.argv[1] == "call" and not (_core.park_info(thread.ident) or {}).get("parked"): time.sleep(0.001)
handle = it.interrupt(thread, reason="why")
thread.join(60)
print(caught == [(True, "why", handle.id)], handle.state, "whole" in steps, it.is_interrupted(thread))
"""


@pytest.mark.parametrize("what", ["call", "code"])
def test_interrupt_in_a_finalizer_is_recorded_again(what: str) -> None:
    """Python cannot raise out of __del__: the interrupt comes after it, and nothing is printed."""
    assert run_script(FINALIZER, what) == f"True delivered {what == 'code'} False\n"


UNRAISABLE = """
import sys, threading
import interruptible_threading as it
seen = []
def hook(args): seen.append(args.exc_type.__name__)
sys.unraisablehook = hook
it.install_patches()
class Failing:
    def __init__(self, exc): self.exc = exc
    def __del__(self): raise self.exc
def body():
    Failing(KeyError())
    Failing(it.ThreadInterrupted())
thread = threading.Thread(target=body); thread.start(); thread.join()
Failing(ValueError())
it.uninstall_patches()
print(seen, sys.unraisablehook is hook)
"""


def test_other_unraisable_exceptions_are_reported() -> None:
    """Whatever is none of our interrupts goes to the hook that was there before."""
    assert run_script(UNRAISABLE) == "['KeyError', 'ThreadInterrupted', 'ValueError'] True\n"


HOOKS = """
import contextlib, sys, threading, time
import interruptible_threading as it
from interruptible_threading import _core
chains, steps = sys.argv[1] == "chains", sys.argv[2].split()
seen, caught = [], []
original = sys.unraisablehook
class Slow:
    def __del__(self): time.sleep(10**6)
class Failing:
    def __del__(self): raise KeyError
def body():
    try:
        with it.deliver_on_blocking():
            Slow()
            time.sleep(10**6)
    except it.ThreadInterrupted as error: caught.append(error)
def put():
    before = sys.unraisablehook
    def theirs(args):
        seen.append(args.exc_type)
        if chains: before(args)
    put_in.append(theirs)
    back.append(before)
    sys.unraisablehook = theirs
def restore(): sys.unraisablehook = back.pop(); put_in.pop()
put_in, back = [], []
for step in steps:
    {"install": it.install_patches, "uninstall": it.uninstall_patches, "put": put, "restore": restore}[step]()
thread = threading.Thread(target=body, daemon=True)
thread.start()
while not (_core.park_info(thread.ident) or {}).get("parked"): time.sleep(0.0002)
handle = it.interrupt(thread)
thread.join(60)
assert len(caught) == 1 and handle.state == "delivered" and seen == [], (caught, handle.explain(), seen)
with contextlib.redirect_stderr(sys.stdout): Failing()
assert seen == [KeyError] * (len(put_in) if chains else len(put_in[-1:])), seen
it.uninstall_patches()
assert sys.unraisablehook is (put_in[-1] if put_in else original)
with contextlib.redirect_stderr(sys.stdout): Failing()
"""


@pytest.mark.parametrize("chains", ["chains", "replaces"])
@pytest.mark.parametrize(
    "steps",
    [
        "install put",
        "install put uninstall install",
        "install put uninstall put install uninstall install",
        "install put uninstall restore install",
        "put install restore",
        "install put uninstall install put uninstall restore restore install",
    ],
)
def test_other_hooks_before_ours(steps: str, chains: str) -> None:
    """Whoever puts a hook before ours, or takes it away with ours in it: no interrupt gets lost in it."""
    run_script(HOOKS, chains, steps)


def test_no_hook() -> None:
    """None, and none at all, mean the interpreter's own."""
    for how in ("sys.unraisablehook = None", "del sys.unraisablehook"):
        run_script(HOOKS.replace("original = sys.unraisablehook", f"it.install_patches(); {how}; original = None"), "chains", "")


RAW_THREAD = """
import sys, threading, time, _thread, interruptible_threading as it
if "with" in sys.argv: it.install_patches()
def function(arg): raise ValueError(arg)
seen, done = [], threading.Event()
def hook(args):
    seen.append((str(args.exc_value), args.object is function, repr(function) in str(args.err_msg), "in thread started by" in args.err_msg))
    done.set()
sys.unraisablehook = hook
_thread.start_new_thread(function, ("this",)); done.wait()
_thread.start_new_thread(sys.exit, ())
while _thread._count(): time.sleep(0.001)
print(seen)
"""


def test_what_comes_out_of_a_raw_thread_is_reported_as_ever() -> None:
    """CPython's own test of it failed up to 3.12: the hook got our object, not the function."""
    assert run_script(RAW_THREAD, "with") == run_script(RAW_THREAD)


SECOND_LIFE = """
import threading, time
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
class Slow:
    def __del__(self): time.sleep(3000)
caught = []
def body():
    try:
        raise ValueError
    except ValueError:
        Slow()
    try:
        time.sleep(3000)
    except it.ThreadInterrupted as error:
        caught.append(error)
for exc in (it.ThreadInterrupted(), None):
    thread = threading.Thread(target=body)
    thread.start()
    while not (_core.park_info(thread.ident) or {}).get("parked"): time.sleep(0.0002)
    it.interrupt(thread, exc)
    thread.join()
    print(caught[-1] is exc, caught[-1].__context__, caught[-1].__traceback__.tb_next)
"""


def test_recorded_again_has_no_past() -> None:
    """What was handled in the finalizer it came out of first is no context of it."""
    assert run_script(SECOND_LIFE) == "True None None\nFalse None None\n"


CALLBACK = """
import gc, sys, threading, time, weakref
from multiprocessing.util import Finalize
import interruptible_threading as it
it.install_patches()
seen, inside, sent, hits, caught = [], [], [], [], []
lock = threading.Lock()
class Thing: pass
def callback(*ref):
    inside.append(ref)
    while not sent: pass
    for _ in range(300_000): pass  # long enough for many looks
    with lock: hits.append(1)
HOW = {
    "ref": lambda thing: weakref.ref(thing, callback),
    "method": lambda thing: weakref.ref(thing, Callback().called),
    "finalize": lambda thing: weakref.finalize(thing, callback),
    "multiprocessing": lambda thing: Finalize(thing, callback),
}
class Callback:
    def called(self, ref): callback(ref)
def body(how):
    try:
        thing = Thing()
        kept = HOW[how](thing)
        thing.cycle = thing
        del thing
        gc.collect()
        time.sleep(3000)
    except it.ThreadInterrupted:
        caught.append(1)
gc.disable()
for how in ("ref", "method", "finalize", "multiprocessing"):
    for each in (seen, inside, sent, hits, caught): each.clear()
    thread = threading.Thread(target=body, args=(how,))
    thread.start()
    while not inside: time.sleep(0.0002)
    handle = it.interrupt(thread)
    sys.unraisablehook = seen.append  # in front of ours: what it gets is lost
    sent.append(1)
    thread.join()
    print(how, len(seen), len(hits), len(caught), handle.state)
"""


def test_nothing_comes_out_of_a_weak_references_callback() -> None:
    """Nobody can catch it there; whoever else has a hook for such errors swallowed it."""
    expected = "".join(f"{how} 0 1 1 delivered\n" for how in ("ref", "method", "finalize", "multiprocessing"))
    assert run_script(CALLBACK) == expected


def test_finalizer_does_not_end_the_wait_it_runs_in(quiet: None) -> None:
    """A parked call whose broken end runs a finalizer: the interrupt still comes from the call itself."""

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.001)

    def call() -> None:
        keep = [Slow() for _ in range(3)]
        try:
            time.sleep(LONG)
        finally:
            keep.clear()

    worker = Worker(call)
    parked(worker, *SLEEP)
    handle = interrupt(worker)
    assert_interrupted(worker, handle)
    assert handle.wait(GUARD)
