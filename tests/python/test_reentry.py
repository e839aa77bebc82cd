"""The program's own code runs in the middle of the library's: constructors and comparisons of exceptions, callbacks of the
garbage collector, an __import__. Other threads go on meanwhile, and what they do counts."""

from __future__ import annotations

import builtins
import gc
import os
import threading
from typing import Any

import pytest
from interruptible_threading import InterruptHandle, ThreadInterrupted, _core, critical_section, interrupt
from support import GUARD, READ, Scene, Worker, parked, run_script

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
making, masked, made, go_on, caught = [], [], [], [], []
class Slow(it.ThreadInterrupted):
    def __init__(self):
        making.append(1)
        while threading.current_thread() is not thread and not masked: time.sleep(0.0005)
        made.append(1)
def run():
    inside = False
    try:
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
        while True: pass
    except ValueError as error:
        print(error)
thread = threading.Thread(target=run, daemon=True)
thread.start()
it.interrupt(thread, Bad)
thread.join(GUARD)
"""
).replace("GUARD", str(GUARD))


#: Two interrupt a thread that nobody knows yet. The collector calls back in the middle of the first one's call, at its Nth run.
ATTACHED_TWICE = """
import gc, threading, time
over = []
def spin(number):
    while number not in over: time.sleep(0.001)
def run(number):
    try:
        try:
            spin(number)
        except BaseException:
            spin(number)
    except BaseException:
        pass
threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
thresholds, handles = gc.get_threshold(), []
for number, thread in enumerate(threads):
    ids, wait, inside, go_on = (thread.ident, thread.native_id), [number], threading.Event(), threading.Event()
    def callback(phase, info):
        if phase == "start" and threading.current_thread() is first:
            wait[0] -= 1
            if wait[0] == -1:
                inside.set()
                go_on.wait()
    def one():
        kept = [[] for _ in range(200)]  # lists that are freed are used again, and are no reason to collect
        args = (*ids, it.ThreadInterrupted("first"), None)
        gc.callbacks.append(callback)
        gc.set_threshold(1)
        handles.append(_core.interrupt(*args))
        gc.set_threshold(*thresholds)
        while not inside.is_set(): gc.collect()
    def two():
        inside.wait()
        handles.append(_core.interrupt(*ids, it.ThreadInterrupted("second"), None))
        go_on.set()
    first, second = threading.Thread(target=one), threading.Thread(target=two)
    first.start()
    second.start()
    first.join()
    second.join()
    gc.callbacks.remove(callback)
    thread.join(GUARD)
    over.append(number)
    thread.join()
print({handle.state for handle in handles}, len(handles))
""".replace("GUARD", "5")


class Gate:
    """Who comes through says so, and waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> None:
        with critical_section():
            self.reached.set()
            assert self.open.wait(GUARD)

    def wait(self) -> None:
        assert self.reached.wait(GUARD)


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
        assert handle.state == "pending"
        assert handle.cancel() is False
        gate.open.set()
        assert type(worker.finish(handle).error) is Slow
        assert handle.state == "delivered"


def test_masked_while_the_exception_is_made() -> None:
    assert run_script(MASKED_MEANWHILE) == "[False]\n"


def test_a_thread_is_attached_once() -> None:
    assert run_script(ATTACHED_TWICE) == "{'delivered'} 16\n"


def test_error_of_a_constructor_comes_out() -> None:
    assert run_script(BAD_CONSTRUCTOR) == "bad\n"


def test_delivered_while_it_is_compared(quiet: None) -> None:
    """What is equal joins what is pending, not what is gone by then."""
    gate = Gate()

    class Same(ThreadInterrupted):
        def __eq__(self, other: object) -> bool:
            gate.pass_through()
            return True

        __hash__ = ThreadInterrupted.__hash__

    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> list[ThreadInterrupted]:
            caught = []
            for _ in range(2):
                try:
                    with critical_section():
                        os.read(r, 1)
                    os.read(r, 1)
                except Same as error:
                    caught.append(error)
            return caught

        first, second = Same(), Same()
        worker = Worker(call)
        parked(worker, *READ)
        before = interrupt(worker, first)
        sender = Worker(lambda: interrupt(worker, second))
        gate.wait()
        os.write(w, b"x")
        assert before.wait(GUARD)
        gate.open.set()
        after = sender.value()
        assert after.id != before.id
        os.write(w, b"xx")
        caught = worker.value()
        assert [id(error) for error in caught] == [id(first), id(second)]


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
    wanted = False

    def callback(phase: str, info: dict[str, int]) -> None:
        nonlocal wanted
        if wanted:
            wanted = False
            gate.pass_through()

    def call() -> str:
        nonlocal wanted
        with critical_section():
            ready.set()
            go_on.wait(GUARD)
            kept: list[list[int]] = [[] for _ in range(200)]  # lists that are freed are used again, and are no reason to collect
            wanted = True
            gc.set_threshold(1)
            _core.clear_interrupt()
            gc.set_threshold(*thresholds)
            del kept
            gc.collect()  # now it calls back, if it has not
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
