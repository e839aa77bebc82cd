"""What must hold when a client library's call is interrupted, whatever the library."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, deliver_on_blocking, interrupt, interrupts_disabled, is_interrupted
from support import GUARD, Worker, parked, wait_until

#: A call that cannot be broken may use this share of a processor while it is asked to end.
MOST_CPU = 0.05


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
    before: Any = None

    def same() -> Any:
        nonlocal before
        now = parked(worker, *calls)
        if before is not None and (now["call"], now["since"]) == (before["call"], before["since"]):
            return now
        before = now
        time.sleep(0.02)
        return None

    found: dict[str, Any] = wait_until(same, f"{worker.name} stays parked in {calls}")
    return found


def cpu_seconds(thread: threading.Thread) -> float:
    """The processor time that a thread has used, in seconds; nan when it has ended."""
    try:
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9
    except (ProcessLookupError, FileNotFoundError):
        return math.nan


def assert_idle(worker: Worker, seconds: float = 0.3) -> None:
    """The worker goes on waiting for this long, and uses next to no processor time for it."""
    used, start = cpu_seconds(worker), time.monotonic()
    time.sleep(seconds)
    assert worker.is_alive(), f"ended: {worker.outcome}"
    share = (cpu_seconds(worker) - used) / (time.monotonic() - start)
    assert share < MOST_CPU, f"{share:.0%} of a processor"


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


def assert_in_sync_or_broken(question: Callable[[], Any], answer: Any, *errors: type[BaseException]) -> None:
    """The next call on a connection gets its own answer, or an error of the library's that says that it is unusable.

    Never the answer to the call that was interrupted, and never a wait for that call's end.
    """
    outcome = Worker(question).finish()
    if outcome.error is None:
        assert outcome.value == answer, "the answer to something else"
    else:
        assert isinstance(outcome.error, errors), repr(outcome.error)


def storm(call: Callable[[], Any], rounds: int = 20) -> None:
    """A worker that calls again whenever it was interrupted survives many interrupts, and gets each of them once.

    In blocking calls only: pools of connections are no better than other code when they are cut between two statements.
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
        if not handles[-1].wait(GUARD):
            pytest.fail(handles[-1].explain())
        # Not before it has come out: one that meets the clean-up after another takes its place.
        wait_until(lambda: len(caught) > turn or not worker.is_alive(), "it is caught")
    worker.value()
    assert caught == [handle.id for handle in handles]
