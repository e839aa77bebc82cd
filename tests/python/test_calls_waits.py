"""Locks, conditions, queues, events, joins and sleeps: each parked for real and broken."""

from __future__ import annotations

import _thread
import queue
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import _core, deliver_on_blocking, interrupt
from stress_support import switch_interval
from support import GUARD, LONG, SEM, SLEEP, Case, Cases, Scene, Worker, assert_interrupted, in_thread, parked, wait_until

cases = Cases()
Steps = Iterator[Callable[[], Any]]


def only(timeout: float | None) -> tuple[float, ...]:
    """The argument list for a call whose only parameter is the time-out."""
    return () if timeout is None else (timeout,)


@cases(*SLEEP, timeouts=(LONG, 2**31, 1e6))
def sleep(scene: Scene, timeout: float) -> Steps:
    yield partial(time.sleep, timeout)


def held_lock_is_usable(lock: Any) -> None:
    assert lock.locked()
    lock.release()
    assert in_thread(partial(lock.acquire, timeout=GUARD))
    assert lock.locked()
    lock.release()
    assert not lock.locked()


def use(lock: Any, entered: list[str]) -> None:
    with lock:
        entered.append("the body ran")


@cases(*SEM)
def lock_acquire(scene: Scene, timeout: float | None) -> Steps:
    lock = threading.Lock()
    lock.acquire()
    yield partial(lock.acquire, True, *only(timeout))
    held_lock_is_usable(lock)


@cases(*SEM)
def lock_acquire_keywords(scene: Scene, timeout: float | None) -> Steps:
    lock = threading.Lock()
    lock.acquire()
    yield (lock.acquire if timeout is None else partial(lock.acquire, blocking=True, timeout=timeout))
    held_lock_is_usable(lock)


@cases(*SEM)
def lock_acquire_lock(scene: Scene, timeout: float | None) -> Steps:
    lock = _thread.allocate_lock()
    lock.acquire()
    yield (lock.acquire_lock if timeout is None else partial(lock.acquire_lock, timeout=timeout))  # type: ignore[attr-defined]
    held_lock_is_usable(lock)


@cases(*SEM, timeouts=(None,))
def with_lock(scene: Scene, timeout: None) -> Steps:
    lock, entered = threading.Lock(), []
    lock.acquire()
    yield partial(use, lock, entered)
    assert entered == []
    held_lock_is_usable(lock)


def held_rlock_is_usable(lock: Any) -> None:
    assert lock._is_owned()
    assert in_thread(lambda: lock.acquire(blocking=False)) is False
    lock.release()
    assert in_thread(lambda: (lock.acquire(timeout=GUARD), lock.acquire(timeout=GUARD), lock.release(), lock.release())[:2]) == (True, True)
    assert lock.acquire(timeout=GUARD)
    lock.release()


@pytest.fixture(params=[threading.RLock, getattr(threading, "_PyRLock", None)], ids=["C", "Python"])
def rlock(request: pytest.FixtureRequest) -> Any:
    lock = request.param()
    lock.acquire()
    return lock


@pytest.mark.parametrize("how", ["acquire", "acquire-timeout", "with"])
def test_rlock(rlock: Any, how: str, quiet: None) -> None:
    entered: list[str] = []
    call = {"acquire": rlock.acquire, "acquire-timeout": partial(rlock.acquire, timeout=LONG), "with": partial(use, rlock, entered)}[how]
    with Scene():
        worker = Worker(call)
        parked(worker, *SEM)
        assert_interrupted(worker, interrupt(worker))
    assert entered == []
    held_rlock_is_usable(rlock)


@cases(*SEM)
def event_wait(scene: Scene, timeout: float | None) -> Steps:
    event = threading.Event()
    yield partial(event.wait, *only(timeout))
    other = Worker(event.wait)
    parked(other, *SEM)
    event.set()
    assert other.value() is True
    assert event.wait(0)


def condition_is_usable(condition: threading.Condition) -> None:
    """notify() wakes exactly one true waiter: the broken one is not in its list any more."""

    def wait() -> bool:
        with condition:
            return condition.wait(GUARD)

    for _ in range(2):
        waiter = Worker(wait)
        parked(waiter, *SEM)
        with condition:
            condition.notify()
        assert waiter.value() is True


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("method", ["wait", "wait_for"])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_condition(lock: Any, method: str, timeout: float | None, quiet: None) -> None:
    condition = threading.Condition(lock())
    owned: list[bool] = []

    def wait() -> None:
        with condition:
            try:
                if method == "wait":
                    condition.wait(timeout)
                else:
                    condition.wait_for(lambda: False, timeout)
            finally:
                owned.append(condition._is_owned())  # type: ignore[attr-defined]

    worker = Worker(wait)
    parked(worker, *SEM)
    assert_interrupted(worker, interrupt(worker))
    assert owned == [True], "the exception left wait() without the condition's lock"
    condition_is_usable(condition)


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock])
def test_condition_takes_its_lock_back_first(lock: Any, quiet: None) -> None:
    """Reacquiring the lock is not interruptible: the exception comes with the lock held, after others are done with it."""
    condition = threading.Condition(lock())
    owned: list[bool] = []

    def wait() -> None:
        with deliver_on_blocking(), condition:
            try:
                condition.wait()
            finally:
                owned.append(condition._is_owned())  # type: ignore[attr-defined]

    worker = Worker(wait)
    before = parked(worker, *SEM)
    with condition:
        handle = interrupt(worker)
        assert handle.wait(GUARD)  # raised in wait(), whose finally clause now wants the lock that we hold
        again = parked(worker, "sem_wait", *SEM)
        assert again["parks"] > before["parks"]
        second = interrupt(worker, reason="while it takes the lock back")
        assert not second.wait(0.05)
        assert owned == []
    outcome = worker.finish(handle)
    assert owned == [True]
    assert outcome.error is not None
    assert (handle.state, second.state) == ("delivered", "delivered")
    condition_is_usable(condition)


@cases(*SEM)
def with_condition(scene: Scene, timeout: float | None) -> Steps:
    condition, entered = threading.Condition(), []
    condition.acquire()
    yield (partial(use, condition, entered) if timeout is None else partial(condition.acquire, timeout=timeout))
    assert entered == []
    condition.release()
    condition_is_usable(condition)


def semaphore_is_empty_and_usable(semaphore: Any) -> None:
    assert not semaphore.acquire(blocking=False)
    semaphore.release()
    assert in_thread(partial(semaphore.acquire, timeout=GUARD))
    assert not semaphore.acquire(blocking=False)


@cases(*SEM)
def semaphore_acquire(scene: Scene, timeout: float | None) -> Steps:
    semaphore = threading.Semaphore(0)
    yield partial(semaphore.acquire, True, *only(timeout))
    semaphore_is_empty_and_usable(semaphore)


@cases(*SEM, timeouts=(None,))
def with_bounded_semaphore(scene: Scene, timeout: None) -> Steps:
    semaphore, entered = threading.BoundedSemaphore(1), []
    assert semaphore.acquire()
    yield partial(use, semaphore, entered)
    assert entered == []
    semaphore_is_empty_and_usable(semaphore)
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


@cases(*SEM)
def barrier_wait(scene: Scene, timeout: float | None) -> Steps:
    barrier = threading.Barrier(2)
    yield partial(barrier.wait, *only(timeout))
    assert barrier.n_waiting == 0
    assert not barrier.broken
    other = Worker(partial(barrier.wait, GUARD))
    assert {barrier.wait(GUARD), other.value()} == {0, 1}


QUEUES = [queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue, queue._PySimpleQueue]  # type: ignore[attr-defined]


def in_a_lock(worker: Worker) -> bool:
    where = _core.park_info(worker.ident or 0)
    return bool(where and where["parked"] and where["call"] in SEM)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="put() hands the item to one that waits")
def test_a_get_whose_item_is_taken_away_ends_in_time() -> None:
    """Up to 3.12 CPython's own waits for ever then, and could not be interrupted either."""
    q: Any = queue.SimpleQueue()
    with pytest.raises(queue.Empty):
        in_thread(partial(q.get, timeout=0.001))  # waits once: now it is known whose waits these are
    timeout, in_time = 0.05, False
    while not in_time:  # unless it still waited when the item came and went, this was nothing
        timeout *= 2
        with switch_interval(10):
            begun = time.monotonic()
            worker = Worker(partial(q.get, timeout=timeout))
            wait_until(lambda worker=worker: in_a_lock(worker) or not worker.is_alive(), "it waits")
            end = time.monotonic() + timeout
            waits = in_a_lock(worker)
            q.put(1)
            assert q.get_nowait() == 1
            in_time = waits and time.monotonic() < begun + timeout
            while time.monotonic() < end:
                pass  # nobody else runs
        assert isinstance(worker.finish().error, queue.Empty)


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize("timeout", [None, LONG])
def test_queue_get(kind: Any, timeout: float | None, quiet: None) -> None:
    q = kind()

    def steps(scene: Scene, timeout: float | None) -> Steps:
        yield partial(q.get, True, *only(timeout))
        for item in range(3):
            q.put(item)
        assert sorted(q.get(timeout=GUARD) for _ in range(3)) == [0, 1, 2]
        assert q.empty()
        other = Worker(q.get)
        parked(other, *SEM)
        q.put("item")
        assert other.value() == "item"

    Case(steps, SEM, timeout).run()


@cases(*SEM)
def queue_put(scene: Scene, timeout: float | None) -> Steps:
    q: queue.Queue[str] = queue.Queue(1)
    q.put("first")
    yield partial(q.put, "broken", True, *only(timeout))
    assert q.get_nowait() == "first"
    assert q.empty()
    q.put("second", timeout=GUARD)
    assert q.get_nowait() == "second"


@cases(*SEM, timeouts=(None,))
def queue_join(scene: Scene, timeout: None) -> Steps:
    q: queue.Queue[int] = queue.Queue()
    q.put(1)
    yield q.join
    other = Worker(q.join)
    parked(other, *SEM)
    q.get()
    q.task_done()
    other.value()


@cases(*SEM)
def thread_join(scene: Scene, timeout: float | None) -> Steps:
    thread, done = scene.running_thread()
    yield partial(thread.join, *only(timeout))
    assert thread.is_alive()
    assert thread in threading.enumerate()
    done.set()
    thread.join(GUARD)
    assert not thread.is_alive()
    thread.join()


@cases(*SEM)
def timer_join(scene: Scene, timeout: float | None) -> Steps:
    called: list[bool] = []
    timer = threading.Timer(LONG, called.append, [True])
    timer.daemon = True
    timer.start()
    yield partial(timer.join, *only(timeout))
    assert timer.is_alive()
    timer.cancel()
    timer.join(GUARD)
    assert not timer.is_alive()
    assert called == []


@pytest.mark.parametrize("case", cases.params)
def test_broken(case: Case, quiet: None) -> None:
    case.run()
