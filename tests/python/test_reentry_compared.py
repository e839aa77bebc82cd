"""Exceptions are compared, to see whether an equal one is pending, by the program's own code. Other threads go on meanwhile, and
what they do counts."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from interruptible_threading import ThreadInterrupted, _core, critical_section, interrupt
from support import GUARD, LONG, READ, Gate, Scene, Worker, parked


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
            caught: list[ThreadInterrupted] = []
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


def held() -> tuple[Worker, threading.Event]:
    """A worker that holds interrupts back until the event, and then takes what there is, one after the other."""
    begun = threading.Event()
    end = threading.Event()

    def call() -> list[str]:
        caught: list[str] = []
        _core.mask(2)
        begun.set()
        end.wait(GUARD)
        while _core.is_interrupted(threading.get_ident()):
            try:
                _core.unmask(2)
                _core.mask(2)
            except BaseException as error:
                _core.mask(2)
                caught.append(type(error).__name__)
        _core.unmask(2)
        return caught

    worker = Worker(call)
    assert begun.wait(GUARD)
    return worker, end


class Comparing(ThreadInterrupted):
    """Waits while it is compared."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        self.wanted = False

    def __eq__(self, other: object) -> bool:
        if self.wanted:
            self.gate.pass_through()
        return False

    __hash__ = ThreadInterrupted.__hash__


class KeyedError(Exception):
    """Equal to those with the same arguments."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyedError) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


def test_thread_ends_while_its_exceptions_are_compared(quiet: None) -> None:
    """Another begins in its place; what comes is for neither."""
    gate = Gate()
    worker, end = held()
    compared = Comparing(gate)
    interrupt(worker, compared)
    compared.wanted = True
    sender = Worker(lambda: interrupt(worker, ValueError()))
    gate.wait()
    end.set()
    worker.finish()
    with Scene() as scene:
        other, _ = scene.running_thread()
        rubbish = [["x", number, 3.5, None] for number in range(2000)]
        gate.open.set()
        assert sender.value().state == "discarded"
        assert not _core.is_interrupted(other.ident or 0)
    assert len(rubbish) == 2000


def test_equal_one_is_found_though_others_go(quiet: None) -> None:
    gate = Gate()
    worker, end = held()
    compared, equal = Comparing(gate), KeyedError(1)
    first, second = interrupt(worker, compared), interrupt(worker, equal)
    compared.wanted = True
    sender = Worker(lambda: interrupt(worker, KeyedError(1)))
    gate.wait()
    assert first.cancel()
    gate.open.set()
    assert sender.value().id == second.id
    end.set()
    assert worker.value() == ["KeyedError"]


@pytest.mark.parametrize("started", [True, False])
def test_same_one_comes_while_others_are_compared(started: bool, quiet: None) -> None:
    gate = Gate()
    worker, end = held() if started else (Worker(int, start=False), threading.Event())
    compared = Comparing(gate)
    interrupt(worker, compared)
    compared.wanted = True
    sender = Worker(lambda: interrupt(worker, ValueError))
    gate.wait()
    compared.wanted = False
    second = interrupt(worker, ValueError)
    gate.open.set()
    assert sender.value().id == second.id
    assert second.cancel() is False  # the other handle holds it
    if started:
        end.set()
        assert worker.value() == ["Comparing", "ValueError"]


@pytest.mark.parametrize("where", ["__init__", "__setattr__", "__eq__"])
def test_interrupted_in_the_exceptions_own_code(where: str, quiet: None) -> None:
    """What comes while the program's code runs inside the library waits until it is over."""
    gate = Gate()

    class Slow(ThreadInterrupted):
        pass

    def slow(self: Any, *args: Any) -> Any:
        if not gate.reached.is_set():
            gate.reached.set()
            time.sleep(0.01)
            gate.open.wait(GUARD)
        return object.__setattr__(self, *args) if where == "__setattr__" else False if where == "__eq__" else None

    setattr(Slow, where, slow)
    if where == "__eq__":
        Slow.__hash__ = ThreadInterrupted.__hash__  # type: ignore[method-assign]
    worker, end = held()
    if where == "__eq__":
        interrupt(worker, Slow())

        def call() -> None:
            interrupt(worker, ValueError())
            time.sleep(LONG)

        slowed = Worker(call)
    else:
        slowed = worker
        interrupt(worker, Slow)
        end.set()
    gate.wait()
    handle = interrupt(slowed, ZeroDivisionError())
    gate.open.set()
    if where == "__eq__":
        assert isinstance(slowed.finish(handle).error, ZeroDivisionError)
        end.set()
        worker.finish()
    else:
        assert worker.value() == ["Slow", "ZeroDivisionError"]
    assert handle.state == "delivered"
