"""What must hold when a client library's call is interrupted, whatever the library."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import pytest
from interruptible_threading import (
    ThreadInterrupted,
    _core,
    deliver_on_blocking,
    interrupt,
    interrupts_disabled,
    is_interrupted,
)
from support import GUARD, Worker, asleep, parked, wait_until

#: Seconds of one and the same wait after which a client is taken to have said what it had to say to its server.
SETTLED = 0.02
#: A call that cannot be broken may wait anew this many times, and once more for so many seconds that pass. Those that wait in
#: slices make them ten times as long; one that is told again and again to end would be through with these in a moment.
FEW, SLICE = 20, 0.01


def assert_raised(worker: Worker, handle: Any) -> BaseException:
    """The interrupt, and no error of the library's, is what the caller of the library gets; once."""
    outcome = worker.finish(handle)
    error = outcome.error
    assert error is not None, f"returned {outcome.value!r}; {handle.explain()}"
    assert type(error) is ThreadInterrupted, repr(error)
    assert (error.interrupt_id, error.source) == (handle.id, threading.get_ident())
    assert handle.state == "delivered"
    assert not is_interrupted(worker)
    return error


def interrupted(call: Callable[[], Any], *calls: str) -> BaseException:
    """Run ``call()`` in a worker, interrupt it where it is parked (in one of ``calls``), and check how it came out.

    A client talks to its server before it waits, so it is interrupted when it has been in the same wait for a while.
    """
    worker = Worker(call)
    settled(worker, *calls)
    return assert_raised(worker, interrupt(worker))


def settled(worker: Worker, *calls: str) -> dict[str, Any]:
    """Wait until the worker waits for its server."""

    def same() -> Any:
        now = time.monotonic()  # before the look: a delay between the two makes no wait longer than it is
        where = asleep(worker, *calls)
        return where if where["since"] < now - SETTLED else None

    found: dict[str, Any] = wait_until(same, f"{worker.name} stays parked in {calls}")
    return found


def assert_idle(worker: Worker, seconds: float = 0.1) -> None:
    """The worker goes on waiting for this long, and is not kept busy meanwhile.

    Its waits are counted: a machine that is slow makes them fewer, and nothing but a call that ends early makes them more.
    """
    begun, before = time.monotonic(), waits(worker)
    time.sleep(seconds)
    more = waits(worker) - before
    assert worker.is_alive(), f"ended: {worker.outcome}"
    assert more <= FEW + (time.monotonic() - begun) / SLICE, f"{more} waits where there should have been one"


def waits(worker: Worker) -> int:
    """How often the worker has waited so far."""
    info = _core.park_info(worker.ident or 0)
    assert info is not None, f"ended: {worker.outcome}"
    return int(info["parks"])


def delivered(handle: Any, let_answer: Callable[[], Any]) -> None:
    """Wait for it, as long as the server answers now and then."""
    end = time.monotonic() + GUARD
    while not handle.wait(0.01):
        let_answer()
        if time.monotonic() > end:
            pytest.fail(handle.explain())


def assert_masked(call: Callable[[], Any], answer: Any, *calls: str, let_answer: Callable[[], Any] = lambda: None) -> None:
    """A mask keeps the interrupt from the library: the call waits on, idle, until its answer comes. Then it is raised."""
    results: list[Any] = []

    def run() -> None:
        with interrupts_disabled():
            results.append(call())

    worker = Worker(run)
    settled(worker, *calls)
    handle = interrupt(worker)
    assert_idle(worker)
    assert handle.state == "masked"
    let_answer()
    assert_raised(worker, handle)
    assert results == [answer]


def assert_in_sync_or_broken(
    question: Callable[[], Any], answer: Any, *errors: type[BaseException], meanwhile: Callable[[], Any] = lambda: None
) -> None:
    """The next call on a connection gets its own answer, or an error of the library's that says that it is unusable.

    Never the answer to the call that was interrupted, and never a wait for that call's end. What happens ``meanwhile``
    comes when the call has begun.
    """
    worker = Worker(question)
    meanwhile()
    outcome = worker.finish()
    if outcome.error is None:
        assert outcome.value == answer, "the answer to something else"
    else:
        assert isinstance(outcome.error, errors), repr(outcome.error)


def storm(call: Callable[[], Any], rounds: int = 20, let_answer: Callable[[], Any] = lambda: None) -> None:
    """A worker that calls again whenever it was interrupted survives many interrupts, and gets each of them once.

    In blocking calls only: pools of connections are no better than other code when they are cut between two statements.
    A library that cannot be broken is interrupted when its server has answered.
    """
    caught: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                with deliver_on_blocking():
                    call()
            except ThreadInterrupted as error:
                caught.append(error.interrupt_id)

    worker = Worker(run)
    handles = []
    for turn in range(rounds):
        parked(worker)
        if turn == rounds - 1:
            stop.set()
        handles.append(interrupt(worker))
        delivered(handles[-1], let_answer)
        # Not before it has come out: one that meets the clean-up after another takes its place.
        wait_until(lambda: len(caught) > turn or not worker.is_alive(), "it is caught")
    worker.value()
    assert caught == [handle.id for handle in handles]
