"""critical_section(), deliver_on_blocking(), @uninterruptible: what is held back, and when it comes."""

from __future__ import annotations

import functools
import os
import select
import threading
import time
from typing import Any, Callable

import pytest
from interruptible_threading import (
    ThreadInterrupted,
    _core,
    check_interrupt,
    clear_interrupt,
    critical_section,
    deliver_on_blocking,
    interrupt,
    interrupts_disabled,
    is_interrupted,
    periodic_checkpoint,
)
from stress_support import switch_interval
from support import GUARD, LONG, READ, SEM, SLEEP, Outcome, Scene, Worker, assert_interrupted, parked, wait_until

MASKS = [critical_section, deliver_on_blocking]


def until_interrupted() -> None:
    """Python code that runs until an interrupt is pending for it."""
    while not is_interrupted():
        pass


class Stage:
    """Lets a test and its worker tell each other how far they are, without a blocking call in the worker."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.steps: list[Any] = []

    def reach(self, name: str) -> None:
        self.reached.append(name)

    def wait_for(self, name: str) -> None:
        wait_until(lambda: name in self.reached, f"the worker reaches {name}")


def test_names() -> None:
    assert interrupts_disabled is critical_section


@pytest.mark.parametrize("mask", MASKS)
def test_outermost_exit_raises_once(mask: Any, quiet: None) -> None:
    stage = Stage()

    def call() -> None:
        try:
            with mask():
                with mask(), mask():
                    stage.reach("masked")
                    until_interrupted()
                    stage.steps.append("inner")
                stage.steps.append("outer")
            stage.steps.append("never")
        except ThreadInterrupted as error:
            assert not is_interrupted()
            time.sleep(0)
            check_interrupt()
            stage.steps.append("caught")
            raise error from None

    worker = Worker(call)
    stage.wait_for("masked")
    handle = interrupt(worker)
    assert handle.state in ("masked", "delivered")
    assert_interrupted(worker, handle)
    assert stage.steps == ["inner", "outer", "caught"]


def test_handle_says_masked(quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> bytes:
            with critical_section():
                return os.read(r, 1)

        worker = Worker(call)
        parked(worker, *READ)
        handle = interrupt(worker)
        assert handle.state == "masked"
        assert "critical_section" in handle.explain()
        assert "read" in handle.explain()
        assert handle.wait(0.01) is False
        assert is_interrupted(worker)
        os.write(w, b"x")
        assert_interrupted(worker, handle)


BLOCKED: dict[str, Callable[[int, int], Any]] = {
    "select": lambda r, w: select.select([r], [], [], LONG)[0] == [r],
    "select-untimed": lambda r, w: select.select([r], [], [])[0] == [r],
    "poll": lambda r, w: poll(r),
    "read": lambda r, w: os.read(r, 1) == b"x",
}


def poll(r: int) -> bool:
    poller = select.poll()
    poller.register(r, select.POLLIN)
    return bool(poller.poll(LONG * 1000))


@pytest.mark.parametrize("name", BLOCKED)
def test_masked_call_does_not_return_early(name: str, quiet: None) -> None:
    results: list[bool] = []
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> None:
            with critical_section():
                results.append(BLOCKED[name](r, w))

        worker = Worker(call)
        before = parked(worker)
        handle = interrupt(worker)
        assert handle.wait(0.05) is False
        assert results == []
        assert _core.park_info(worker.ident)["parks"] == before["parks"], "woken, though it is masked"
        os.write(w, b"x")
        assert_interrupted(worker, handle)
        assert results == [True]


def test_masked_sleep_is_slept(quiet: None) -> None:
    slept: list[float] = []

    def call() -> None:
        with critical_section():
            while not is_interrupted():
                start = time.monotonic()
                time.sleep(0.1)
                slept.append(time.monotonic() - start)

    worker = Worker(call)
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker))
    assert min(slept) >= 0.1


def test_on_blocking_breaks_calls(quiet: None) -> None:
    def call() -> None:
        with deliver_on_blocking():
            time.sleep(LONG)

    worker = Worker(call)
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker))


def test_on_blocking_leaves_code_alone(quiet: None) -> None:
    stage = Stage()

    def call() -> None:
        with deliver_on_blocking():
            stage.reach("running")
            until_interrupted()
            for _ in range(100_000):
                functools.reduce(max, (1, 2))
            stage.steps.append("whole loop")
            check_interrupt()
            stage.steps.append("never")

    worker = Worker(call)
    stage.wait_for("running")
    assert_interrupted(worker, interrupt(worker))
    assert stage.steps == ["whole loop"]


def test_critical_inside_on_blocking(quiet: None) -> None:
    stage = Stage()

    def call() -> None:
        with deliver_on_blocking():
            with critical_section():
                stage.reach("running")
                until_interrupted()
                time.sleep(0)
                check_interrupt()
                stage.steps.append("slept")
            stage.steps.append("still masked for code")
            time.sleep(0)
            stage.steps.append("never")

    worker = Worker(call)
    stage.wait_for("running")
    assert_interrupted(worker, interrupt(worker))
    assert stage.steps == ["slept", "still masked for code"]


@pytest.mark.parametrize("mask", MASKS)
def test_exception_of_the_body_becomes_context(mask: Any, quiet: None) -> None:
    stage = Stage()

    def call() -> None:
        with mask():
            stage.reach("running")
            until_interrupted()
            raise KeyError("of the body")

    worker = Worker(call)
    stage.wait_for("running")
    handle = interrupt(worker)
    error = worker.finish(handle).error
    assert type(error) is ThreadInterrupted
    assert isinstance(error.__context__, KeyError)
    assert error.__context__.__context__ is None
    assert handle.state == "delivered"


@pytest.mark.parametrize("mask", MASKS)
def test_exception_of_the_body_without_interrupt(mask: Any) -> None:
    with pytest.raises(KeyError), mask():
        raise KeyError
    with pytest.raises(KeyError):
        Worker(lambda: mask()(dict.__getitem__)({}, 1)).value()


@pytest.mark.parametrize("mask", MASKS)
def test_decorator(mask: Any, quiet: None) -> None:
    stage = Stage()

    @mask()
    def function(first: int, *, second: int) -> tuple[int, int]:
        """Says what it was given."""
        stage.reach("running")
        until_interrupted()
        stage.steps.append((first, second))
        return first, second

    assert function.__name__ == "function"
    assert function.__doc__ == "Says what it was given."
    worker = Worker(lambda: function(1, second=2))
    stage.wait_for("running")
    assert_interrupted(worker, interrupt(worker))
    assert stage.steps == [(1, 2)]


@pytest.mark.parametrize("mask", MASKS)
def test_decorator_returns(mask: Any) -> None:
    assert Worker(lambda: mask()(max)(1, 2)).value() == 2
    assert mask()(max)(1, 2) == 2


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_not_inherited(mask: Any, quiet: None) -> None:
    def call() -> Outcome:
        with mask():
            child = Worker(lambda: time.sleep(LONG))
            parked(child, *SLEEP)
            interrupt(child)
            return child.finish()

    assert type(Worker(call).value().error) is ThreadInterrupted


@pytest.mark.parametrize("mask", MASKS)
def test_mask_object_is_reusable(mask: Any) -> None:
    shared = mask()

    def call() -> int:
        with shared, shared:
            inside = _core.masked()
        with shared:
            pass
        return inside

    assert Worker(call).value() == shared._level
    assert Worker(_core.masked).value() == 0


def test_clear_while_masked(quiet: None) -> None:
    stage = Stage()

    def call() -> list[Any]:
        with critical_section():
            stage.reach("masked")
            until_interrupted()
            seen = [clear_interrupt(), clear_interrupt(), is_interrupted()]
        time.sleep(0)
        return seen

    worker = Worker(call)
    stage.wait_for("masked")
    handle = interrupt(worker)
    assert worker.finish(handle).value == [True, False, False]
    assert handle.state in ("discarded", "retracted")


def test_cancel_while_masked(quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> bytes:
            with critical_section():
                data = os.read(r, 1)
            time.sleep(0)
            return data

        worker = Worker(call)
        parked(worker, *READ)
        handle = interrupt(worker)
        assert handle.cancel() is True
        assert handle.state == "retracted"
        assert not is_interrupted(worker)
        os.write(w, b"x")
        assert worker.value() == b"x"


def test_checkpoints_respect_the_mask(quiet: None) -> None:
    stage = Stage()

    def call() -> None:
        with critical_section():
            stage.reach("masked")
            until_interrupted()
            check_interrupt()
            with periodic_checkpoint(1) as ticker:
                assert ticker.tick() is True
            stage.steps.append("checked")

    worker = Worker(call)
    stage.wait_for("masked")
    assert_interrupted(worker, interrupt(worker))
    assert stage.steps == ["checked"]


def test_mask_in_a_storm(quiet: None) -> None:
    """Whatever the moment the interrupt comes: a block is either run as a whole or not at all, and each interrupt is raised once."""
    a, b, caught, stop = [0], [0], [0], [False]

    def call() -> None:
        while not stop[0]:
            try:
                while not stop[0]:
                    with critical_section():
                        a[0] += 1
                        b[0] += 1
            except ThreadInterrupted:
                caught[0] += 1

    worker = Worker(call)
    handles = []
    with switch_interval(0.0005):  # else most of the time goes by while one thread waits for its turn
        for _ in range(300):
            before = a[0]
            wait_until(lambda before=before: a[0] > before + 1, "it goes on in its inner loop")
            handle = interrupt(worker)
            assert handle.wait(GUARD), handle.explain()
            assert handle.state == "delivered"
            handles.append(handle)
        wait_until(lambda: caught[0] == 300, "all are caught")
        stop[0] = True
        worker.join(GUARD)
    assert a == b
    assert caught == [300]
    assert len({handle.id for handle in handles}) == 300


def test_event_wait_in_a_mask_is_woken_by_the_event(quiet: None) -> None:
    event = threading.Event()

    def call() -> Any:
        with critical_section():
            return event.wait(LONG)

    worker = Worker(call)
    parked(worker, *SEM)
    handle = interrupt(worker)
    assert handle.state == "masked"
    event.set()
    assert_interrupted(worker, handle)
