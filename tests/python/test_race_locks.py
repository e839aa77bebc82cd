"""Interrupts that race with taking and giving back locks: none is ever held by nobody, or entered without being taken."""

from __future__ import annotations

import threading
from multiprocessing import get_context
from typing import Any, Callable

import pytest
from stress_support import Books, Victim, count, rng, storm, switch_interval, until

INTERVALS = pytest.mark.parametrize("interval", [None, 1e-5], ids=["switching", "switching-often"])


class Section:
    """What a lock protects: it sees when somebody is in there who must not be."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.inside: set[int] = set()  # not a counter: += is none of what is tested here
        self.visits = 0

    def visit(self, victim: Victim) -> None:
        self.inside.add(id(victim))
        try:
            self.visits += 1
            assert len(self.inside) <= self.room
        finally:
            self.inside.discard(id(victim))


def with_statement(lock: Any, section: Section) -> Callable[[Victim], None]:
    def body(victim: Victim) -> None:
        while not victim.stopping:
            with lock:
                section.visit(victim)

    return body


def acquire_release(lock: Any, section: Section) -> Callable[[Victim], None]:
    def body(victim: Victim) -> None:
        while not victim.stopping:
            lock.acquire()
            try:
                section.visit(victim)
            finally:
                lock.release()

    return body


def acquire_timeout(lock: Any, section: Section) -> Callable[[Victim], None]:
    def body(victim: Victim) -> None:
        while not victim.stopping:
            if lock.acquire(True, 1000.0):
                try:
                    section.visit(victim)
                finally:
                    lock.release()

    return body


def nested(lock: Any, section: Section) -> Callable[[Victim], None]:
    """For reentrant locks."""

    def body(victim: Victim) -> None:
        while not victim.stopping:
            with lock:
                with lock:
                    section.visit(victim)
                lock.acquire()
                try:
                    section.visit(victim)
                finally:
                    lock.release()

    return body


LOCKS: dict[str, tuple[Callable[[], Any], int]] = {
    "Lock": (threading.Lock, 1),
    "RLock": (threading.RLock, 1),
    "_PyRLock": (threading._PyRLock, 1),  # type: ignore[attr-defined]
    "Condition": (threading.Condition, 1),
    "Semaphore": (threading.Semaphore, 1),
    "BoundedSemaphore": (lambda: threading.BoundedSemaphore(2), 2),
    "multiprocessing.Lock": (lambda: get_context("fork").Lock(), 1),
    "multiprocessing.RLock": (lambda: get_context("fork").RLock(), 1),
}
CASES = [
    (name, use)
    for name in LOCKS
    for use in (with_statement, acquire_release, acquire_timeout, nested)
    if use is not nested or "R" in name.partition(".")[2] + name.partition(".")[0][:2] or name == "_PyRLock"
    if not (name == "_PyRLock" and use is acquire_release)  # its acquire() is Python: release() may find what it left
]


@INTERVALS
@pytest.mark.parametrize(("name", "use"), CASES, ids=[f"{name}-{use.__name__}" for name, use in CASES])
def test_lock(name: str, use: Any, interval: float | None) -> None:
    """Three threads contend for it and are interrupted. At the end it is free, as often as it was at the start."""
    make, room = LOCKS[name]
    lock = make()
    section = Section(room)
    body = use(lock, section)
    victims = [Victim(body, name=f"{name}-{i}") for i in range(room + 1)]
    books = Books(*victims)
    with switch_interval(interval):
        storm(books, count(40 if interval else 10), rng(name, use.__name__, interval), waits=0.9)
    books.stop()
    assert not section.inside
    assert section.visits > 0
    for _ in range(room):
        assert lock.acquire(False)
    if "R" not in name and name != "Condition":
        assert not lock.acquire(False)
    for _ in range(room):
        lock.release()
    assert books.balance() > 0


@INTERVALS
def test_semaphore_keeps_its_permits(interval: float | None) -> None:
    """More users than permits, released by one and taken by another."""
    semaphore = threading.Semaphore(0)
    taken = 0
    given = 0

    def body(victim: Victim) -> None:
        nonlocal taken
        while not victim.stopping:
            semaphore.acquire()
            taken += 1

    def give() -> None:
        nonlocal given
        semaphore.release()
        given += 1

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(300), rng(interval), feed=give)
    books.stop()
    assert taken + semaphore._value == given
    assert books.balance() > count(300) // 10


@INTERVALS
def test_event_and_condition_wait(interval: float | None) -> None:
    """A wait that was broken leaves no waiter behind, and holds the lock again when it is over."""
    condition = threading.Condition()
    event = threading.Event()
    passed = 0

    def body(victim: Victim) -> None:
        nonlocal passed
        while not victim.stopping:
            with condition:
                condition.wait()
                assert condition._is_owned()  # type: ignore[attr-defined]
            event.wait()
            passed += 1

    def wake() -> None:
        event.set()
        with condition:
            condition.notify_all()

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(200), rng(interval), feed=wake)
    event.set()
    books.stop()
    with condition:
        assert not condition._waiters  # type: ignore[attr-defined]
        condition.notify_all()
    assert books.balance() > count(200) // 10


@INTERVALS
def test_barrier_of_two(interval: float | None) -> None:
    """An interrupted wait breaks the barrier, as any exception there does; reset() mends it."""
    barrier = threading.Barrier(2)

    def body(victim: Victim) -> None:
        while not victim.stopping:
            try:
                barrier.wait()
            except threading.BrokenBarrierError:
                barrier.reset()

    victims = [Victim(body, name=str(i)) for i in range(2)]
    books = Books(*victims)
    with switch_interval(interval):
        storm(books, count(100), rng(interval), waits=1.0)
    books.stop()
    assert books.balance() > 0
    barrier.reset()
    passed: list[int] = []
    others = [threading.Thread(target=lambda: passed.append(barrier.wait()), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    until(lambda: len(passed) == 2, "the barrier is not usable any more")
