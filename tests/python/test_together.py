"""What a thread waits for comes together with an interrupt: the one is had, the other comes a moment later.

Whoever interrupts and notifies holds what the woken thread needs before it can go on, so that both are there when it does.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, check_interrupt, deliver_on_blocking, interrupt
from support import LONG, SEM, Worker, parked, wait_until

TIMEOUTS = pytest.mark.parametrize("timeout", [None, LONG], ids=["no time-out", "time-out"])
ORDERS = pytest.mark.parametrize("first", ["interrupt", "effect"])


def then_interrupted(call: Callable[[], Any]) -> Any:
    """What ``call()`` gives; behind it the interrupt has to come."""
    with deliver_on_blocking():
        value = call()
        try:
            check_interrupt()
        except ThreadInterrupted:
            return value
    pytest.fail(f"no interrupt behind {value!r}")


def together(worker: Worker, effect: Callable[[], Any], first: str = "interrupt") -> Any:
    """Interrupt the worker and have the effect, in this order or the other one."""
    if first == "effect":
        effect()
    handle = interrupt(worker)
    if first == "interrupt":
        effect()
    return handle


CONDITIONS = pytest.mark.parametrize("lock", [threading.Lock, threading.RLock, threading._PyRLock])  # type: ignore[attr-defined]


@ORDERS
@TIMEOUTS
@CONDITIONS
def test_a_notification(lock: Any, timeout: float | None, first: str) -> None:
    """wait() returns True with the lock held; and the next one is interrupted."""
    condition = threading.Condition(lock())

    def wait() -> Any:
        with condition:
            got = then_interrupted(partial(condition.wait, timeout))
            assert condition._is_owned()  # type: ignore[attr-defined]
            return got

    worker = Worker(wait)
    parked(worker, *SEM)
    with condition:
        handle = together(worker, condition.notify, first)
    assert worker.value() is True
    assert handle.state == "delivered"
    assert not condition._waiters  # type: ignore[attr-defined]


@ORDERS
def test_it_was_for_one_of_many(first: str) -> None:
    """Half of twenty consumers are interrupted as there are items for twenty: all items are got, nobody sleeps on."""
    q: queue.Queue[int] = queue.Queue()

    def consumers(call: Callable[[], Any]) -> list[Worker]:
        """Ten more that are in line: one that is parked may wait for another to let go of the queue."""
        before = len(q.not_empty._waiters)  # type: ignore[attr-defined]
        workers = [Worker(call) for _ in range(10)]
        wait_until(lambda: len(q.not_empty._waiters) == before + 10, "they are in line")  # type: ignore[attr-defined]
        for worker in workers:
            parked(worker, *SEM)
        return workers

    interrupted = consumers(partial(then_interrupted, q.get))
    others = consumers(q.get)

    def put(item: int) -> None:
        q._put(item)
        q.not_empty.notify()

    with q.mutex:
        for number, worker in enumerate(interrupted):
            together(worker, partial(put, number), first)
        for number in range(10, 20):
            put(number)
    assert sorted(worker.value() for worker in interrupted + others) == list(range(20))
    assert not q.not_empty._waiters  # type: ignore[attr-defined]


def test_an_event() -> None:
    event = threading.Event()
    worker = Worker(partial(then_interrupted, event.wait))
    parked(worker, *SEM)
    with event._cond:  # type: ignore[attr-defined]
        interrupt(worker)
        event._flag = True  # type: ignore[attr-defined]
        event._cond.notify_all()  # type: ignore[attr-defined]
    assert worker.value() is True


def test_a_permit() -> None:
    semaphore = threading.Semaphore(0)
    worker = Worker(partial(then_interrupted, semaphore.acquire))
    parked(worker, *SEM)
    with semaphore._cond:  # type: ignore[attr-defined]
        interrupt(worker)
        semaphore._value += 1  # type: ignore[attr-defined]
        semaphore._cond.notify()  # type: ignore[attr-defined]
    assert worker.value() is True
    assert semaphore._value == 0  # type: ignore[attr-defined]


def test_no_notification() -> None:
    """Others' are left to them, and nobody stays in line."""
    condition = threading.Condition()

    def wait() -> None:
        with condition:
            condition.wait()

    other = Worker(wait)
    parked(other, *SEM)
    worker = Worker(wait)
    parked(worker, *SEM)
    with condition:
        handle = together(worker, condition.notify)
    outcome = worker.finish(handle)
    assert isinstance(outcome.error, ThreadInterrupted)
    assert other.value() is None
    assert not condition._waiters  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", [-1, 0, 0.0, 0.01])
def test_time_is_up(timeout: float) -> None:
    """The wait is the standard library's in everything else."""
    condition = threading.Condition()
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        condition.wait(timeout)
    with condition:
        assert condition.wait(timeout) is False
        assert not condition._waiters  # type: ignore[attr-defined]
        with pytest.raises(TypeError):
            condition.wait("1")  # type: ignore[arg-type]
        assert not condition._waiters  # type: ignore[attr-defined]
        assert condition._is_owned()  # type: ignore[attr-defined]
