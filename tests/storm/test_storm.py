"""Storms: many threads, all kinds of blocking work, nested masks, and interrupts from several sides at once.

ITR_STORM_SECONDS is how long each lasts. ITR_TEST_SEED repeats what every thread does and whom every sender chooses; how
they interleave is the machine's choice, so that a failure is found again by repeating the seed for long.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
from books import Interrupts, StormBooks, Surroundings, Worker, check_masks, rng, stop
from more_work import MORE_KINDS
from stress_support import GUARD, SEED, spin, switch_interval
from tls_work import Tls
from work import KINDS, Work

SECONDS = float(os.environ.get("ITR_STORM_SECONDS") or 6)
PART = 20.0
pytestmark = [
    pytest.mark.hang_guard(SECONDS + 300),
    pytest.mark.filterwarnings(
        "error::pytest.PytestUnhandledThreadExceptionWarning",
        "error::pytest.PytestUnraisableExceptionWarning",
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
    ),
]


def send(books: StormBooks, salt: object, end: float, pause: float, by_number: bool) -> None:
    """One of the senders."""
    dice = rng("sender", salt)
    while time.monotonic() < end:
        handle = books.send(dice, by_number)
        what, long = dice.random(), dice.random()
        if what < 0.3:
            handle.wait(1)
        elif what < 0.65:
            time.sleep(long * pause)
        else:
            spin(int(long * 200))


def send_and_wait(books: StormBooks, salt: object, at: int, end: float) -> None:
    """The only sender to one thread: an interrupt that is lost has no successor that wakes the thread in its place."""
    dice = rng("only sender", salt, at)
    while time.monotonic() < end:
        handle = books.send(dice, at=at)
        if not handle.wait(GUARD):
            books.lost.append(f"{handle.explain()}: {books.alive[at].where()}")
            return
        spin(int(dice.random() * 200))


class Weather(NamedTuple):
    """How hard it storms."""

    threads: int
    pause: float = 0.002
    #: 0: one for each thread.
    senders: int = 3
    #: How many rounds a thread lives at most: another takes its place. None: until the end.
    rounds: Optional[int] = None


def storm(works: list[Work], seconds: float, weather: Weather, salt: object) -> StormBooks:
    books = StormBooks()
    for work in works:
        if isinstance(work, Interrupts):
            work.books = books
    made = 0

    def worker() -> Worker:
        nonlocal made
        made += 1
        rounds = rng("life", salt, made).randrange(weather.rounds) if weather.rounds else math.inf
        return Worker((salt, made), works, rounds)

    for _ in range(weather.threads):
        books.add(worker())
    end = time.monotonic() + seconds
    # The number of a thread that has ended may be another's, who is no part of this.
    args = (end, weather.pause, weather.rounds is None)
    others = [threading.Thread(target=send, args=(books, (salt, number), *args)) for number in range(weather.senders)]
    if weather.senders == 0:
        others = [threading.Thread(target=send_and_wait, args=(books, salt, at, end)) for at in range(weather.threads)]
    for other in others:
        other.start()
    while time.monotonic() < end and not any(victim.failure for victim in books.alive):
        for at, victim in enumerate(books.alive):
            if weather.rounds is not None and not victim.is_alive():
                books.add(worker(), at)
        time.sleep(0.005)
    for other in others:
        other.join()
    stop(books)
    return books


@contextmanager
def all_kinds(certificate: tuple[Path, Path]) -> Iterator[list[Work]]:
    """Every kind of work; checked in the end, with all that they have opened given back."""
    surroundings = Surroundings()
    with ExitStack() as undo:
        works: list[Work] = [*(kind() for kind in (*KINDS, *MORE_KINDS, Interrupts)), Tls(certificate)]
        for work in works:
            undo.callback(work.close)
        yield works
        for work in works:
            work.check()
    del works, work
    surroundings.check()


def run(certificate: tuple[Path, Path], weather: Weather, *others: type[Work]) -> None:
    """For as long as was asked for, in parts, so that the books do not grow without end."""
    print(f"ITR_TEST_SEED={SEED}")
    end = time.monotonic() + SECONDS
    for part in itertools.count():
        with all_kinds(certificate) as works:
            works += [other() for other in others]
            if weather.senders == 0:
                works = [work for work in works if not isinstance(work, Interrupts)]
            books = storm(works, min(SECONDS, PART), weather, part)
            assert not books.lost, books.lost
            check_masks(books.victims)
            delivered = books.balance()
            print(json.dumps(books.counters()), flush=True)
            assert delivered > 0
            books.forget()
        if time.monotonic() >= end - PART / 2:
            break


def test_plain(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, Weather(12))


def test_one_sender_each(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, Weather(6, senders=0))


def test_switching_often(certificate: tuple[Path, Path], quiet: None) -> None:
    with switch_interval(1e-5):
        run(certificate, Weather(6))


def test_five_hundred_threads(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, Weather(500, 0.0005))


def test_threads_that_come_and_go(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, Weather(10, rounds=60))


def test_traced(certificate: tuple[Path, Path], quiet: None) -> None:
    """Every thread is traced."""
    lines = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        lines[0] += 1
        return trace

    threading.settrace(trace)
    try:
        run(certificate, Weather(8))
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    assert lines[0] > 0


class Slow:
    """Something whose end takes a while."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        time.sleep(0.0001)


class Garbage(Work):
    """Finalizers that block, called by the reference count and by the collector."""

    def do(self, dice: Any, endless: bool) -> None:
        made = [Slow() for _ in range(dice.randrange(4))]
        for one in made[1:]:
            del one.cycle
        time.sleep(dice.random() * 0.001)


def test_finalizers_and_collections_that_block(certificate: tuple[Path, Path], quiet: None) -> None:
    lock = threading.Lock()

    def callback(phase: str, info: dict[str, int]) -> None:
        with lock:
            time.sleep(0.00005)

    thresholds = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(200)
    try:
        run(certificate, Weather(8), Garbage)
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*thresholds)
    assert not lock.locked()
