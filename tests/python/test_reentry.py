"""The program's own code runs in the middle of the library's: constructors of exceptions, callbacks of the
garbage collector, an __import__. Other threads go on meanwhile, and what they do counts."""

from __future__ import annotations

import builtins
import gc
import os
import threading
import time
from typing import Any

import pytest
from interruptible_threading import (
    InterruptHandle,
    ThreadInterrupted,
    _core,
    critical_section,
    deliver_on_blocking,
    interrupt,
)
from support import GUARD, LONG, READ, Gate, Scene, Worker, parked, run_script

#: A target that computes and may not be traced; up to 3.11 its exceptions are made by another thread then.
UNTRACED = """
import sys, threading, time
def refuse(event, args):
    if event == "sys.settrace": raise RuntimeError
sys.addaudithook(refuse)
import interruptible_threading as it
it.install_patches()
"""

MASKED_MEANWHILE = (
    UNTRACED
    + """
begun, making, masked, made, go_on, caught = [], [], [], [], [], []
class Slow(it.ThreadInterrupted):
    def __init__(self):
        making.append(1)
        while threading.current_thread() is not thread and not masked: time.sleep(0.0005)
        made.append(1)
def run():
    inside = False
    try:
        begun.append(1)
        while not making: pass
        with it.critical_section():
            inside = True
            masked.append(1)
            while not go_on: pass
            inside = False
    except Slow:
        caught.append(inside)
thread = threading.Thread(target=run)
thread.start()
while not begun: time.sleep(0.0005)
it.interrupt(thread, Slow)
while not made: time.sleep(0.0005)
for _ in range(100): time.sleep(0.0005)
go_on.append(1)
thread.join()
print(caught)
"""
)

BAD_CONSTRUCTOR = (
    UNTRACED
    + """
class Bad(it.ThreadInterrupted):
    def __init__(self): raise ValueError("bad")
def run():
    try:
        begun.append(1)
        while True: pass
    except ValueError as error:
        print(error)
begun = []
thread = threading.Thread(target=run, daemon=True)
thread.start()
while not begun: time.sleep(0.0005)
it.interrupt(thread, Bad)
thread.join(GUARD)
"""
).replace("GUARD", str(GUARD))


#: A thread ends in a way that tells nobody, and leaves something with a finalizer. It runs as another thread gets its place,
#: and waits until that one is in a mask.
LEAVINGS = """
import os, threading, time
import interruptible_threading as it
armed, reached, gate, inside, go_second, masked, leave, out = [], [], [], [], [], [], [], []
class Slow:
    def __del__(self):
        if armed:
            reached.append(1)
            while not gate: time.sleep(0.001)
def first():
    kept = Slow()
    try:
        while inside.append(1) is None: time.sleep(0.001)
    except it.ThreadInterrupted:
        pass
def second():
    while not go_second: pass
    try:
        with it.critical_section():
            masked.append(1)
            while not leave: pass
            out.append(it._core.masked())
    except it.ThreadInterrupted:
        out.append("raised")
    out.append(it._core.masked())
def drive():
    while not reached: time.sleep(0.001)
    go_second.append(1)
    while not masked: time.sleep(0.001)
    gate.append(1)
threads = [threading.Thread(target=target) for target in (first, second)]
for thread in threads: thread.start()
driver = threading.Thread(target=drive, daemon=True)
driver.start()
it.install_patches()
while not inside or driver.ident not in it._core.threads(): time.sleep(0.001)
it.interrupt(threads[0])
threads[0].join()
while os.path.exists(f"/proc/self/task/{threads[0].native_id}"): time.sleep(0.001)
armed.append(1)
handle = it.interrupt(threads[1])
assert reached
leave.append(1)
threads[1].join()
print(out, handle.state)
"""


def test_too_late_to_take_back_while_the_exception_is_made(quiet: None) -> None:
    gate = Gate()

    class Slow(ThreadInterrupted):
        def __init__(self) -> None:
            gate.pass_through()

    with Scene() as scene:
        r, _ = scene.pipe()
        worker = Worker(lambda: os.read(r, 1))
        parked(worker, *READ)
        handle = interrupt(worker, Slow)
        gate.wait()
        assert str(handle.state) == "pending"
        assert handle.cancel() is False
        gate.open.set()
        assert type(worker.finish(handle).error) is Slow
        assert handle.state == "delivered"


def test_masked_while_the_exception_is_made() -> None:
    assert run_script(MASKED_MEANWHILE) == "[False]\n"


def test_what_another_thread_has_left() -> None:
    assert run_script(LEAVINGS) == "[2, 'raised', 0] delivered\n"


def test_error_of_a_constructor_comes_out() -> None:
    assert run_script(BAD_CONSTRUCTOR) == "bad\n"


def test_wait_sees_what_happens_as_it_begins(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    original = builtins.__import__

    def slow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "_thread" and threading.current_thread() is waiter:
            gate.pass_through()
        return original(name, *args, **kwargs)

    with Scene() as scene:
        _, end = scene.running_thread()
        masked = Worker(lambda: masked_until(end))
        parked(masked)
        handle = interrupt(masked)
        waiter = Worker(handle.wait, start=False)
        monkeypatch.setattr(builtins, "__import__", slow)
        waiter.start()
        gate.wait()
        assert handle.cancel() is True
        gate.open.set()
        assert waiter.value() is True


def masked_until(end: threading.Event) -> None:
    with critical_section():
        end.wait(GUARD)


def test_thread_that_starts_and_ends_while_it_is_interrupted(quiet: None) -> None:
    thread = threading.Thread(target=int)

    class Sly(threading.Event):
        looks = 0

        def is_set(self) -> bool:
            answer = super().is_set()
            self.looks += 1
            if self.looks == 1:
                thread.start()
                thread.join()
            return answer

    thread._started = Sly()  # type: ignore[attr-defined]
    handle = interrupt(thread)
    assert handle.wait(GUARD)
    assert handle.state == "discarded"


def test_what_comes_while_others_are_cleared(quiet: None) -> None:
    """The collector calls back, and another thread interrupts this one meanwhile."""
    gate = Gate()
    ready = threading.Event()
    go_on = threading.Event()
    meanwhile: list[InterruptHandle] = []
    wanted = 0

    def callback(phase: str, info: dict[str, int]) -> None:
        nonlocal wanted
        if wanted == threading.get_ident():  # others may be the ones that collect
            wanted = 0
            gate.pass_through()

    def call() -> str:
        nonlocal wanted
        with critical_section():
            ready.set()
            go_on.wait(GUARD)
            kept: list[list[int]] = [[] for _ in range(200)]  # lists that are freed are used again, and are no reason to collect
            wanted = threading.get_ident()
            gc.set_threshold(1)
            _core.clear_interrupt()
            gc.set_threshold(*thresholds)
            del kept
            while wanted:  # now it calls back, if it has not, and if no other thread is at it
                gc.collect()
        return meanwhile[0].state  # not raised

    thresholds = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        worker = Worker(call)
        assert ready.wait(GUARD)
        first = interrupt(worker, ThreadInterrupted())
        go_on.set()
        gate.wait()
        meanwhile.append(interrupt(worker, ThreadInterrupted()))
        gate.open.set()
        outcome = worker.finish()
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*thresholds)
    assert first.state == "discarded"
    assert outcome.value == "discarded" or meanwhile[0].state == "delivered"


def test_same_one_comes_before_the_start(quiet: None) -> None:
    """What is made for an interrupt may make the collector call back, and others interrupt the same thread meanwhile."""
    gate = Gate()
    thread = threading.Thread(target=int)
    wanted = 0

    def callback(phase: str, info: dict[str, int]) -> None:
        nonlocal wanted
        if wanted == threading.get_ident():
            wanted = 0
            gate.pass_through()

    def call() -> InterruptHandle:
        nonlocal wanted
        kept: list[list[int]] = [[] for _ in range(200)]  # see above
        wanted = threading.get_ident()
        gc.set_threshold(1)
        handle = interrupt(thread)
        gc.set_threshold(*thresholds)
        del kept
        while wanted:
            gc.collect()
        return handle

    thresholds = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        sender = Worker(call)
        gate.wait()
        second = interrupt(thread)
        gate.open.set()
        first = sender.value()
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*thresholds)
    assert first.id == second.id


def test_recorded_again_cannot_be_taken_back_halfway(quiet: None) -> None:
    """What surfaced in a finalizer is pending when it can be taken back, and not before."""
    gate = Gate()
    wanted: list[int] = []

    class Dropped(Exception):
        def __del__(self) -> None:
            if wanted:
                gate.pass_through()

    class Finalized:
        def __del__(self) -> None:
            try:
                raise Dropped
            except Dropped:
                time.sleep(LONG)

    def call() -> str:
        try:
            with deliver_on_blocking():
                Finalized()
        except ThreadInterrupted:
            return "raised"
        return "taken back"

    worker = Worker(call)
    parked(worker)
    wanted.append(1)
    handle = interrupt(worker, ThreadInterrupted())
    gate.wait()
    taken_back = handle.cancel()
    gate.open.set()
    assert worker.value() == ("taken back" if taken_back else "raised")
    assert handle.state == ("retracted" if taken_back else "delivered")
    assert not _core.is_interrupted(worker.ident or 0)


def test_taken_back_as_its_thread_starts(quiet: None) -> None:
    gate = Gate()
    ran = []

    class Slow(threading.Thread):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "run":
                gate.pass_through()
            super().__setattr__(name, value)

    thread = Slow(target=lambda: ran.append(1))
    handle = interrupt(thread)
    starter = Worker(thread.start)
    gate.wait()
    assert handle.cancel() is True
    gate.open.set()
    starter.value()
    thread.join()
    assert (ran, handle.state) == ([1], "retracted")


def test_thread_that_refuses_attributes(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted all the same, where its function begins: in front of any ``try``, so that nobody catches it, or in it."""
    outcome: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: outcome.append(args.exc_type))

    class Refuses(threading.Thread):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "run":
                raise AttributeError(name)
            super().__setattr__(name, value)

    def call() -> None:
        try:
            time.sleep(LONG)
        except ThreadInterrupted as error:
            outcome.append(type(error))

    thread = Refuses(target=call)
    handle = interrupt(thread)
    thread.start()
    thread.join(GUARD)
    assert (thread.is_alive(), handle.state) == (False, "delivered")
    assert outcome == [ThreadInterrupted]
