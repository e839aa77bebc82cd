"""install_patches() and uninstall_patches(): everything is restored. Each case in an interpreter of its own."""

from __future__ import annotations

import pytest
from support import run_python, run_script

SNAPSHOT = """
import _thread, _socket, collections, fcntl, io, os, queue, select, shutil, signal, socket, ssl, subprocess, sys, threading, time
import interruptible_threading as it
BUILTINS = [time.sleep, os.read, os.open, os.waitpid, select.select, fcntl.flock, signal.sigwait, io.open, open]
def snapshot():
    return dict(
        hashes=[hash(f) for f in BUILTINS], sets=[f in s for s in (os.supports_dir_fd, os.supports_fd, os.supports_effective_ids,
            os.supports_follow_symlinks) for f in (os.open, os.stat, os.access, os.unlink)], shutil=shutil.rmtree.avoids_symlink_attacks,
        thread=threading.Thread, start=threading.Thread.start, timer=threading.Timer.__bases__, module=type(threading),
        vars=dict(vars(threading)), hook=sys.unraisablehook, meta=list(sys.meta_path), excepthook=threading.excepthook,
        lock=threading.Lock, rlock=threading.RLock, recv=socket.socket.recv, popen=subprocess.Popen, join=threading.Thread.join,
        joined=vars(threading.Thread).get("_wait_for_tstate_lock"), run=threading.Thread.run, wait=threading.Condition.wait)
"""


def test_round_trips() -> None:
    output = run_script(
        SNAPSHOT
        + """
mine = {time.sleep: "sleep", os.read: "read", len: "len"}
ordered = collections.OrderedDict([(os.open, 1), (len, 2), (time.sleep, 3)])
chosen = {time.sleep, os.open, len}
before = snapshot()
original = hash(time.sleep)
for turn in range(3):
    assert it.install_patches() is None
    assert it.status()["patches"] and it.status()["problems"] == [], it.status()
    inside = snapshot()
    assert inside["sets"] == before["sets"] and inside["shutil"] is before["shutil"] is True
    assert os.open in os.supports_dir_fd
    assert inside["vars"]["Thread"] is before["thread"] is inside["thread"]
    assert inside["wait"] is not before["wait"] and inside["wait"].__doc__ == before["wait"].__doc__
    assert inside["hook"] is not before["hook"] and inside["start"] is not before["start"]
    assert mine[time.sleep] == "sleep" and mine[os.read] == "read" and list(mine.values()) == ["sleep", "read", "len"]
    assert {time.sleep, os.open, len} == chosen and time.sleep in chosen
    assert ordered[os.open] == 1 and list(ordered) == [os.open, len, time.sleep]
    assert it.uninstall_patches() is None
    after = snapshot()
    assert after == before, [key for key in after if after[key] != before[key]]
    assert mine[time.sleep] == "sleep" and time.sleep in chosen and ordered[time.sleep] == 3
    assert hash(time.sleep) == original
    status = it.status()
    assert not status["patches"] and not status["installed"] and "not installed" in status["problems"][0]
print("restored")
"""
    )
    assert output == "restored\n"


#: Keys that were well-behaved when they were put in.
CHANGED_KEYS = """
import collections, sys, time
import interruptible_threading as it
class Key:
    refuses = equal = False
    def __hash__(self):
        if Key.refuses: raise TypeError("no hash any more")
        return 1
    def __eq__(self, other): return Key.equal or self is other
first, second = Key(), Key()
pairs = [(first, 1), (second, 2), (time.sleep, 3)]
containers = [dict(pairs), set(dict(pairs)), collections.OrderedDict(pairs)]
setattr(Key, sys.argv[1], True)
it.install_patches()
it.uninstall_patches()
setattr(Key, sys.argv[1], False)
print(*([len(held), first in held, second in held, time.sleep in held] for held in containers))
"""


@pytest.mark.parametrize("how", ["refuses", "equal"])
def test_containers_of_keys_that_have_changed(how: str) -> None:
    """Installing failed, or never ended, or lost one of them."""
    assert run_script(CHANGED_KEYS, how) == f"{' '.join(['[3, True, True, True]'] * 3)}\n"


def test_errors() -> None:
    output = run_script(
        """
import threading, time
import interruptible_threading as it
def error(function, **options):
    try: function(**options)
    except Exception as error: return type(error).__name__ + ": " + str(error)
print(error(it.uninstall_patches))
print(error(it.install_patches, interrupt_exc=1))
it.install_patches(interrupt_exc=KeyError)
print(error(it.install_patches))
print(error(it.InterruptibleThread.install_patches))
it.uninstall_patches()
print(error(it.InterruptibleThread.uninstall_patches))
"""
    )
    assert [line.partition(":")[0] for line in output.splitlines()] == ["ValueError", "TypeError", "ValueError", "ValueError", "ValueError"]


def test_default_exception_is_restored() -> None:
    output = run_script(
        """
import threading, time
import interruptible_threading as it
def name():
    thread = threading.Thread(target=time.sleep, args=(1e6,))
    return it.interrupt(thread).exc.__name__
names = []
for options in ({}, {"interrupt_exc": KeyError}, {"legacy_keyboardinterrupt": True}, {}):
    names.append(name()); it.install_patches(**options); names.append(name()); it.uninstall_patches()
print(*names)
"""
    )
    assert output.split()[0::2] == ["ThreadInterrupted"] * 4
    assert output.split()[1::2] == ["ThreadInterrupted", "KeyError", "_ThreadInterruptedKeyboard", "ThreadInterrupted"]


def test_parked_threads_survive_installing_and_uninstalling() -> None:
    output = run_script(
        """
import os, threading
import interruptible_threading as it
from interruptible_threading import _core
def parked(thread):
    while not (_core.park_info(thread.ident) or {}).get("parked"): pass
r, w = os.pipe(); out = []
it.install_patches()
one = threading.Thread(target=lambda: out.append(os.read(r, 1))); one.start(); parked(one)
lock = threading.Lock(); lock.acquire()
two = threading.Thread(target=lambda: out.append(lock.acquire())); two.start(); parked(two)
it.uninstall_patches()
os.write(w, b"1"); one.join(); lock.release(); two.join()
it.install_patches()
print(sorted(map(str, out)))
"""
    )
    assert output == "['True', \"b'1'\"]\n"


def test_a_programs_own_wait_stays() -> None:
    output = run_script(
        """
import threading
import interruptible_threading as it
original = threading.Condition.wait
def mine(self, timeout=None): return original(self, timeout)
class Own(threading.Condition):
    def wait(self, timeout=None): return "own"
threading.Condition.wait = mine
it.install_patches()
assert threading.Condition.wait is mine
it.uninstall_patches()
assert threading.Condition.wait is mine
threading.Condition.wait = original
it.install_patches()
assert threading.Condition.wait not in (mine, original)
assert Own().wait() == "own"
it.uninstall_patches()
assert threading.Condition.wait is original
print("kept")
"""
    )
    assert output == "kept\n"


def test_conditions_with_optimized_code() -> None:
    """-O leaves out the asserts of the method that is replaced, and what they use."""
    script = """
import multiprocessing.synchronize, threading
import interruptible_threading as it
conditions = threading.Condition, multiprocessing.synchronize.Condition
originals = [condition.wait for condition in conditions]
it.install_patches()
print(*(condition.wait is not original for condition, original in zip(conditions, originals)))
"""
    done = run_python("-O", "-c", script)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_conditions_that_cannot_be_looked_at() -> None:
    """One whose import the program forbids, another whose notify() is no function."""
    output = run_script(
        """
import functools, sys, threading
sys.modules["multiprocessing.synchronize"] = None
threading.Condition.notify = functools.partial(threading.Condition.notify)
import interruptible_threading as it
it.install_patches()
it.uninstall_patches()
print("installed")
"""
    )
    assert output == "installed\n"


def test_a_condition_that_is_imported_later() -> None:
    output = run_script(
        """
import sys
import interruptible_threading as it
it.install_patches()
assert "multiprocessing.synchronize" not in sys.modules
import multiprocessing.synchronize
Condition = multiprocessing.synchronize.Condition
ours = Condition.wait
it.uninstall_patches()
original = Condition.wait
assert original is not ours and original.__module__ == ours.__module__ == "multiprocessing.synchronize"
it.install_patches()
assert Condition.wait is ours
Condition.wait = mine = lambda self, timeout=None: original(self, timeout)
it.uninstall_patches()
assert Condition.wait is mine
it.install_patches()
assert Condition.wait is mine
print("kept")
"""
    )
    assert output == "kept\n"


@pytest.mark.parametrize("other", ["hook", "start", "meta_path", "Thread", "wait"])
def test_another_patch_on_top(other: str) -> None:
    """What somebody else has put over ours since stays theirs, and goes on working."""
    output = run_script(
        """
import sys, threading, time
import interruptible_threading as it
other = sys.argv[1]
seen = []
it.install_patches()
if other == "hook":
    ours = sys.unraisablehook
    def theirs(args): seen.append(1); ours(args)
    sys.unraisablehook = theirs
elif other == "start":
    ours = threading.Thread.start
    def theirs(self): seen.append(1); ours(self)
    threading.Thread.start = theirs
elif other == "meta_path":
    class Finder:
        def find_spec(self, name, path=None, target=None): seen.append(name)
    sys.meta_path.insert(0, Finder())
elif other == "wait":
    ours = threading.Condition.wait
    def theirs(self, timeout=None): seen.append(1); return ours(self, timeout)
    threading.Condition.wait = theirs
else:
    class Fake: pass
    threading.Thread = Fake
for turn in range(3):
    it.uninstall_patches()
    it.install_patches()
it.uninstall_patches()
if other == "hook":
    class Failing:
        def __del__(self): raise KeyError
    previous, sys.stderr = sys.stderr, sys.stdout
    Failing()
    sys.stderr = previous
    assert sys.unraisablehook is theirs
elif other == "start":
    thread = threading.Thread(target=int); thread.start(); thread.join()
    assert threading.Thread.start is theirs
elif other == "meta_path":
    import colorsys
    assert type(sys.meta_path[0]) is Finder
elif other == "wait":
    assert not threading.Event().wait(0.001)
    assert threading.Condition.wait is theirs
else:
    assert threading.Thread is Fake
    seen.append(1)
print("good" if seen else "not called")
""",
        other,
    )
    assert output.splitlines()[-1] == "good"


def test_gevent_and_eventlet_are_refused() -> None:
    output = run_script(
        """
import sys, time, types
import interruptible_threading as it
gevent = types.ModuleType("gevent.monkey"); gevent.saved = {"time": {}}
sys.modules["gevent.monkey"] = gevent
before = hash(time.sleep)
try: it.install_patches()
except RuntimeError as error: print("gevent" in str(error), it.status()["patches"], hash(time.sleep) == before)
print(any("gevent" in problem for problem in it.status()["problems"]))
gevent.saved = {}
it.install_patches()
print(it.status()["problems"])
"""
    )
    assert output == "True False True\nTrue\n[]\n"


def test_modules_imported_later_are_protected_and_unchanged() -> None:
    output = run_script(
        """
import sys
import interruptible_threading as it
it.install_patches()
import concurrent.futures.thread, importlib, logging.handlers, multiprocessing.pool, queue, tempfile
for module in (concurrent.futures.thread, logging.handlers, multiprocessing.pool, queue, tempfile):
    assert type(module.__spec__.loader).__module__.startswith(("_frozen_importlib", "importlib")), module.__spec__.loader
    assert module.__loader__ is module.__spec__.loader
    assert importlib.reload(module) is module
print("plain")
"""
    )
    assert output == "plain\n"


def test_pickles_and_repr() -> None:
    output = run_script(
        """
import copy, pickle, threading
import interruptible_threading as it
it.install_patches()
print(repr(threading)[:19], type(threading).__name__)
print([pickle.loads(pickle.dumps(cls)) is cls for cls in (threading.Thread, it.InterruptibleThread)])
error = pickle.loads(pickle.dumps(it.ThreadInterrupted("text")))
print(repr(error), type(error) is it.ThreadInterrupted)
print(pickle.loads(pickle.dumps(it._ThreadInterruptedKeyboard)) is it._ThreadInterruptedKeyboard)
"""
    )
    assert output == "<module 'threading' module\n[True, True]\nThreadInterrupted('text') True\nTrue\n"
