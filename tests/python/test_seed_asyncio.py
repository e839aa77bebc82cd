"""run_interruptible(): an interrupt cancels the root task, everything unwinds, and the interrupt itself is raised."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Callable

import pytest
from interruptible_threading import (
    InterruptHandle,
    InterruptibleThread,
    ThreadInterrupted,
    critical_section,
    deliver_on_blocking,
    interrupt,
    is_interrupted,
    run_interruptible,
)
from stress_support import count
from support import EPOLL, GUARD, LONG, Worker, assert_interrupted, parked, wait_until

WAIT = (*EPOLL, "select", "poll")


def start(coroutine: Any) -> Worker:
    return Worker(lambda: run_interruptible(coroutine()))


def test_clean_cancellation(quiet: None) -> None:
    steps: list[Any] = []

    class Resource:
        async def __aenter__(self) -> None:
            steps.append("entered")

        async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
            await asyncio.sleep(0.001)
            steps.append(kind)

    async def main() -> None:
        async with Resource():
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0.001)
                steps.append("finally")

    worker = start(main)
    wait_until(lambda: steps, "it runs")
    parked(worker, *WAIT)
    assert_interrupted(worker, interrupt(worker, reason="why"), "why")
    assert steps == ["entered", "finally", asyncio.CancelledError]


def test_children_are_cancelled(quiet: None) -> None:
    begun: list[str] = []
    steps: list[str] = []

    async def child(name: str) -> None:
        try:
            begun.append(name)
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            steps.append(name)
            raise

    async def main() -> None:
        await asyncio.gather(child("one"), child("two"))

    worker = start(main)
    wait_until(lambda: len(begun) == 2, "both run")
    parked(worker, *WAIT)
    assert_interrupted(worker, interrupt(worker))
    assert sorted(steps) == ["one", "two"]


def test_result_and_errors() -> None:
    async def value() -> str:
        await asyncio.sleep(0)
        return "value"

    async def failing() -> None:
        raise KeyError("own")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert run_interruptible(value()) == "value"
    assert start(value).value() == "value"
    assert isinstance(start(failing).finish().error, KeyError)
    assert isinstance(start(cancelled).finish().error, asyncio.CancelledError)


def test_cancellation_that_is_caught(quiet: None) -> None:
    """A task that deals with the cancellation has dealt with the interrupt."""

    async def main() -> str:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            return "dealt with"
        return "slept"

    worker = start(main)
    parked(worker, *WAIT)
    handle = interrupt(worker)
    assert worker.finish(handle).value == "dealt with"
    assert handle.state == "delivered"
    assert not is_interrupted(worker)


def test_busy_loop_of_awaits(quiet: None) -> None:
    running = threading.Event()

    async def main() -> None:
        running.set()
        while True:
            await asyncio.sleep(0)

    worker = start(main)
    assert running.wait(GUARD)
    assert_interrupted(worker, interrupt(worker))


def test_mask_postpones(quiet: None) -> None:
    steps: list[str] = []
    go_on = threading.Event()

    async def main() -> None:
        with critical_section():
            steps.append("masked")
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            steps.append("whole")
        await asyncio.sleep(LONG)

    worker = start(main)
    wait_until(lambda: steps, "it is masked")
    handle = interrupt(worker)
    assert handle.state == "masked"
    assert handle.wait(0.05) is False
    go_on.set()
    assert_interrupted(worker, handle)
    assert steps == ["masked", "whole"]


def test_interrupt_before_the_first_step(quiet: None) -> None:
    ran: list[bool] = []

    async def main() -> None:
        ran.append(True)

    def call() -> None:
        with deliver_on_blocking():
            interrupt(threading.current_thread())
            run_interruptible(main())

    error = Worker(call).finish().error
    assert type(error) is ThreadInterrupted
    assert error.__context__ is None
    assert ran == []


def test_thread_goes_on_afterwards(quiet: None) -> None:
    """After a run the thread is interrupted in the usual way again."""

    async def main() -> str:
        return "done"

    def call() -> None:
        assert run_interruptible(main()) == "done"
        time.sleep(LONG)

    worker = Worker(call)
    parked(worker, "clock_nanosleep", "nanosleep", "select")
    assert_interrupted(worker, interrupt(worker))


def test_storm(quiet: None) -> None:
    """Each interrupt cancels one run, and none comes after it."""
    runs = 30
    started: list[int] = []
    errors: list[BaseException] = []

    async def main(turn: int) -> None:
        started.append(turn)
        await asyncio.sleep(LONG)

    def call() -> None:
        for turn in range(runs):
            try:
                run_interruptible(main(turn))
            except BaseException as error:
                errors.append(error)

    worker = Worker(call)
    for turn in range(runs):
        wait_until(lambda turn=turn: len(started) > turn, "the next run starts")
        assert interrupt(worker).wait(GUARD)
    worker.value()
    assert len(errors) == runs
    assert {type(error).__name__ for error in errors} == {"ThreadInterrupted"}


async def leave_a_task(during: Callable[[], Awaitable[None]]) -> None:
    async def left_behind() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await during()

    left.append(asyncio.ensure_future(left_behind()))
    await asyncio.sleep(0)


async def leave_a_generator(during: Callable[[], Awaitable[None]]) -> None:
    async def left_behind() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await during()

    left.append(left_behind())
    await left[-1].__anext__()


async def leave_an_executor(during: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    loop.run_in_executor(None, release.wait, GUARD)
    shut_down = loop.shutdown_default_executor

    async def shutting_down(*args: Any) -> None:
        await during()
        loop.call_soon(release.set)
        await shut_down(*args)

    loop.shutdown_default_executor = shutting_down  # type: ignore[method-assign]


#: What lives on until asyncio.run() shuts down.
left: list[Any] = []


@pytest.mark.parametrize("leave", [leave_a_task, leave_a_generator, leave_an_executor])
def test_interrupt_while_it_shuts_down(leave: Callable[[Any], Awaitable[None]], quiet: None) -> None:
    """It is held back until all is shut down, and is raised by what the thread does next."""
    steps: list[str] = []
    handles: list[InterruptHandle] = []

    async def during() -> None:
        handles.append(interrupt(threading.current_thread()))
        await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        steps.append("shut down")

    async def main() -> str:
        await leave(during)
        return "value"

    def call() -> None:
        with deliver_on_blocking():
            steps.append(run_interruptible(main()))
            time.sleep(LONG)

    worker = Worker(call)
    error = worker.finish().error
    left.clear()
    assert type(error) is ThreadInterrupted
    assert error.__context__ is None
    assert steps == ["shut down", "value"]
    assert [handle.state for handle in handles] == ["delivered"]


def test_storm_of_short_runs(quiet: None) -> None:
    """Most interrupts come while a loop is made or shut down. None is lost there, and nothing is left unawaited."""
    caught: list[BaseException] = []
    begun, over = threading.Event(), threading.Event()

    def call() -> None:
        with deliver_on_blocking():
            begun.set()
            while not over.is_set():
                try:
                    run_interruptible(asyncio.sleep(0))
                except ThreadInterrupted as error:
                    caught.append(error)

    worker = Worker(call)
    assert begun.wait(GUARD)
    try:
        for number in range(count(200)):
            handle = interrupt(worker)
            wait_until(lambda: len(caught) > number or not worker.is_alive(), "it is raised")
            assert [error.interrupt_id for error in caught[number:]] == [handle.id], worker.outcome
    finally:
        over.set()
    worker.value()


def test_the_last_interrupt_is_raised(quiet: None) -> None:
    """The task has dealt with the one before."""
    steps: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            steps.append("dealt with")
        await asyncio.sleep(LONG)

    worker = start(main)
    parked(worker, *WAIT)
    first = interrupt(worker, reason="first")
    wait_until(lambda: steps, "it is dealt with")
    assert_interrupted(worker, interrupt(worker, reason="second"), "second")
    assert first.state == "delivered"


@pytest.mark.parametrize("thing", [None, 1, "coroutine", asyncio.sleep])
def test_no_coroutine(thing: Any) -> None:
    with pytest.raises(ValueError, match="coroutine"):
        run_interruptible(thing)


def test_inside_a_running_loop(quiet: None) -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="running event loop"):
            InterruptibleThread.run_interruptible(inner)

    run_interruptible(main())
    start(main).value()
