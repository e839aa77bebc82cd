"""Code that nobody can catch in is not cut, whatever it is called; a thread's own function is none of it."""

from __future__ import annotations

import sys

import pytest
from support import run_script

#: ``until()`` is what the interpreter calls; it goes on for long when the interrupt has come. Whoever else has a hook for
#: what surfaces nowhere swallows it.
UNCUT = """
import functools, gc, sys, threading, time, weakref
import interruptible_threading as it
steps, caught = [], []
def until(*args):
    if threading.get_ident() != thread.ident or "whole" in steps: return
    steps.append("begun")
    while not it.is_interrupted(): pass
    for _ in range(100000): pass
    steps.append("whole")
def decorated(function):
    @functools.wraps(function)
    def inner(*args): function(*args)
    return inner

class Alias:
    def close(self): until()
    __del__ = close
class Captured:
    def close(self):
        until(lambda: self)
    __del__ = close
class Anonymous:
    __del__ = decorated(lambda self: until())
class Inherits(Alias):
    def close(self): raise SystemError("this is no finalizer")

def generator():
    try: yield 1
    finally: until()
def handler():
    try: yield 1
    except GeneratorExit:
        try: raise ValueError
        except ValueError: until()
def outer(): yield from generator()
async def asynchronous():
    try: yield 1
    finally: until()
class Awaited:
    def __await__(self):
        try: yield 1
        finally: until()
async def coroutine(): await Awaited()
def begun(made):
    try: (made if hasattr(made, "send") else made.asend(None)).send(None)
    except StopIteration: pass
    return made

class Callback:
    def __call__(self, phase, info): until()
    def method(self, phase, info): until()
def collect(callback):
    gc.callbacks.append(callback)
    gc.collect()
    gc.callbacks.remove(callback)

class Fails:
    def __del__(self): raise KeyError
def report(hook):
    sys.unraisablehook = hook
    Fails()
    sys.unraisablehook = ignore
def in_front(args): until()
class Hook:
    def called(self, args): until()
def chained(args): until()
def fails_behind_ours():
    sys.unraisablehook = ours
    Fails()
    sys.unraisablehook = ignore

CASES = {
    "alias": Alias,
    "captured": Captured,
    "anonymous": Anonymous,
    "inherits": Inherits,
    "generator": lambda: begun(generator()),
    "handler": lambda: begun(handler()),
    "outer": lambda: begun(outer()),
    "asynchronous": lambda: begun(asynchronous()),
    "coroutine": lambda: begun(coroutine()),
    "gc-function": lambda: collect(until),
    "gc-method": lambda: collect(Callback().method),
    "gc-instance": lambda: collect(Callback()),
    "hook": lambda: report(in_front),
    "hook-method": lambda: report(Hook().called),
    "hook-chained": fails_behind_ours,
}
if sys.argv[1] == "hook-chained": sys.unraisablehook = chained
it.install_patches()
ours = sys.unraisablehook
def ignore(args): steps.append(f"unraisable {args.exc_type.__name__}")
sys.unraisablehook = ignore
def body():
    try:
        thing = CASES[sys.argv[1]]()
        del thing
        time.sleep(10**6)
    except it.ThreadInterrupted: caught.append(1)
gc.disable()
thread = threading.Thread(target=body, daemon=True)
thread.start()
while not steps: time.sleep(0.0005)
handle = it.interrupt(thread)
thread.join(60)
print(*steps, caught, handle.state)
"""


CASES = {
    "finalizer": ("alias", "captured", "anonymous", "inherits"),
    "generator": ("generator", "handler", "outer", "asynchronous", "coroutine"),
    "collector": ("gc-function", "gc-method", "gc-instance"),
}


@pytest.mark.parametrize("kind", CASES)
def test_not_cut(kind: str) -> None:
    for case in CASES[kind]:
        assert (case, run_script(UNCUT, case)) == (case, "begun whole [1] delivered\n")


@pytest.mark.parametrize("case", ["hook", "hook-method", "hook-chained"])
def test_not_cut_in_a_hook_for_what_surfaces(case: str) -> None:
    """What it raises is printed, and nobody is told."""
    assert run_script(UNCUT, case) == "begun whole [1] delivered\n"


WAITING_HOOK = """
import sys, threading, time
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
steps = []
lock = threading.Lock()
lock.acquire()
def hook(args):
    with lock: steps.append(args.exc_type.__name__)
sys.unraisablehook = hook
class Fails:
    def __del__(self): raise KeyError
def body():
    Fails()
    try: time.sleep(10**6)
    except it.ThreadInterrupted: steps.append("caught")
thread = threading.Thread(target=body)
thread.start()
while not (_core.park_info(thread.ident) or {}).get("parked"): time.sleep(0.0005)
handle = it.interrupt(thread)
steps.append(handle.wait(0.05))  # long enough to be woken; it waits on
lock.release()
thread.join()
print(*steps, handle.state)
"""


def test_a_hook_for_what_surfaces_waits_to_the_end() -> None:
    assert run_script(WAITING_HOOK) == "False KeyError caught delivered\n"


DEAD = """
import _thread, os, sys, threading, time, weakref
from concurrent.futures import ThreadPoolExecutor
import interruptible_threading as it
it.install_patches()
begun, caught = [], []
def task(*dead):
    try:
        begun.append(_thread.get_ident())
        while True: pass
    except it.ThreadInterrupted: caught.append(1)
class Thing: pass
class Method:
    def target(self, dead): task()
def dead(): return weakref.ref(Thing())
HOW = {
    "executor": lambda: ThreadPoolExecutor(1).submit(task) and None,
    "thread": lambda: threading.Thread(target=task, args=(dead(),), daemon=True).start(),
    "method": lambda: threading.Thread(target=Method().target, args=(dead(),), daemon=True).start(),
    "timer": lambda: threading.Timer(0, task, args=(dead(),)).start(),
    "raw": lambda: _thread.start_new_thread(task, (dead(),)),
}
HOW[sys.argv[1]]()
while not begun: time.sleep(0.0005)
delivered = it.interrupt(begun[0]).wait(60)
while delivered and not caught: time.sleep(0.0005)  # it comes out of the loop a moment later
print(delivered, caught, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["executor", "thread", "method", "timer", "raw"])
def test_a_threads_own_function_is_no_callback(how: str) -> None:
    """Nobody holds the executor any more, which the worker knows by a weak reference: its tasks were never interrupted."""
    assert run_script(DEAD, how) == "True [1]\n"


DROPPED = """
import gc, sys, threading, time, weakref
import interruptible_threading as it
it.install_patches()
steps, caught = [], []
def until(*args):
    steps.append("begun")
    while not it.is_interrupted(): pass
    for _ in range(100000): pass
    steps.append("whole")
class Thing: pass
def made():
    thing = Thing()
    references.append(weakref.ref(thing, until))
    return thing
references = []
sys.unraisablehook = lambda args: steps.append("unraisable")
thread = threading.Thread(target=lambda thing: None, args=(made(),))
thread.start()
while not steps: time.sleep(0.0005)
handle = it.interrupt(thread)
thread.join()
print(*steps, handle.state)
"""


def test_callbacks_as_a_thread_drops_its_arguments() -> None:
    """Called by Thread.run() too, but not by its call. It ends before there is anything else to be interrupted."""
    assert run_script(DROPPED) == "begun whole discarded\n"


#: ``work()`` is interrupted as soon as it is ``inside``; ``busy()`` goes on for long when the interrupt has come.
PRELUDE = """
import gc, io, os, socket, sys, threading, time, warnings
from interruptible_threading import ThreadInterrupted, install_patches, interrupt
install_patches()
inside, free, sent, log = threading.Event(), threading.Event(), [], []
def busy():
    inside.set()
    while not sent: pass
    for _ in range(200_000): pass
"""
SENDER = """
thread = threading.Thread(target=work, daemon=True); thread.start()
inside.wait()
sent.append(interrupt(thread))
free.set()
thread.join()
print(*log, flush=True)
os._exit(0)
"""


def interrupted_inside(body: str, *argv: str) -> str:
    return run_script(PRELUDE + body + SENDER, *argv)


# io's finalizer, in C, drops whatever comes out of what it calls.
FILE = """
def wait():
    inside.set()
    if not free.wait(60): sys.exit("an interrupt that is pending must not keep others from running")
class Base(io.RawIOBase):
    def readable(self): return True
class Close(Base):
    def close(self):
        busy()
        log.append("whole")
        super().close()
class Wait(Base):
    def close(self):
        wait()
        log.append("whole")
        super().close()
class Closed(Base):
    @property
    def closed(self):
        if not log:
            busy()
            log.append("whole")
        return super().closed
class Noted(Base):
    def __setattr__(self, name, value):
        if name == "_finalizing":
            busy()
            log.append("whole")
        super().__setattr__(name, value)
class Other:
    pass
class Derived(Other, Close):
    pass
make = {
    "close": Close, "wait": Wait, "closed": Closed, "noted": Noted, "derived": Derived,
    "buffered": lambda: io.BufferedReader(Close()), "text": lambda: io.TextIOWrapper(io.BufferedReader(Wait())),
}[sys.argv[1]]
def work():
    try:
        if sys.argv[2] == "cycle":
            ring = [make()]
            ring.append(ring)
            del ring
            gc.collect()
        else:
            make()
        while True: time.sleep(60)
    except ThreadInterrupted: log.append("caught")
"""


@pytest.mark.parametrize("garbage", ["cycle", "unreferenced"])
@pytest.mark.parametrize("file", ["close", "wait", "closed", "noted", "derived", "buffered", "text"])
def test_a_file_that_is_given_up_is_closed(file: str, garbage: str) -> None:
    assert interrupted_inside(FILE, file, garbage) == "whole caught\n"


WARNING = """
warnings.simplefilter("always")
def show(*args):
    busy()
    log.append("whole")
warnings.showwarning = show
def work():
    try:
        socket.socket()
        while True: time.sleep(60)
    except ThreadInterrupted: log.append("caught")
"""


def test_warning_of_a_finalizer_in_c() -> None:
    """A socket that is given up: what is raised while it says so is dropped."""
    assert interrupted_inside(WARNING) == "whole caught\n"


QUESTION = """
def asked():
    if threading.current_thread() is not thread or log: return
    busy()
    log.append("whole")
class Raw(io.RawIOBase):
    def readable(self): return True
    def readinto(self, buffer): return 0
class Closed(Raw):
    @property
    def closed(self):
        asked()
        return super().closed
class Tell(Raw):
    def tell(self):
        asked()
        return 0
class Own:  # as tarfile has one
    closed = False
    def readable(self): return True
    def seek(self, offset, whence=0): return 0
    def readinto(self, buffer): return 0
    def flush(self): pass
    def close(self): pass
    def tell(self):
        asked()
        return 0
class Seek(Raw):
    def seek(self, offset, whence=0):
        asked()
        return 0
def work():
    try:
        io.BufferedReader(globals()[sys.argv[1]]()).read(1)
        while True: time.sleep(60)
    except ThreadInterrupted: log.append("caught")
"""


@pytest.mark.parametrize("question", ["Closed", "Tell", "Seek", "Own"])
def test_what_io_asks_of_a_raw_file(question: str) -> None:
    """C code that drops what comes out of it, or takes it for a yes."""
    assert interrupted_inside(QUESTION, question) == "whole caught\n"


NAMED = """
class Attribute:
    def __set_name__(self, owner, name):
        busy()
        log.append("whole")
def work():
    try:
        type("Class", (), {"attribute": Attribute()})
        while True: time.sleep(60)
    except ThreadInterrupted: log.append("caught")
"""


def test_set_name() -> None:
    """Up to 3.11 its class makes a RuntimeError of what comes out of it. Later it is cut, if there is time."""
    assert interrupted_inside(NAMED) in ("whole caught\n", "caught\n" if sys.version_info >= (3, 12) else "")
