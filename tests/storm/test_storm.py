"""Storms: many threads, all kinds of blocking work, nested masks, and interrupts from several sides at once.

ITR_STORM_SECONDS is how long each lasts. ITR_TEST_SEED repeats what every thread does and whom every sender chooses; how
they interleave is the machine's choice, so that a failure is found again by repeating the seed for long.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from books import StormBooks, Surroundings, Worker, check_masks, stop
from interruptible_threading import _unraisable
from stress_support import SEED, spin
from support import run_python
from tls_work import Tls
from work import KINDS, Work

SECONDS = float(os.environ.get("ITR_STORM_SECONDS") or 6)
pytestmark = [
    pytest.mark.hang_guard(SECONDS + 300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def rng(*salt: object) -> random.Random:
    return random.Random(f"{SEED} {salt}")


def send(books: StormBooks, number: int, end: float, pause: float) -> None:
    """One of the senders."""
    dice = rng("sender", number)
    while time.monotonic() < end:
        victim = dice.choice(books.victims)
        handle = books.send(victim, dice)
        if dice.random() < 0.3:
            handle.wait(1)
        elif dice.random() < 0.5:
            time.sleep(dice.random() * pause)
        else:
            spin(dice.randrange(200))


def storm(works: list[Work], threads: int, pause: float = 0.002, senders: int = 3) -> StormBooks:
    victims = [Worker(number, works, rng("worker", number)) for number in range(threads)]
    books = StormBooks(*victims)
    end = time.monotonic() + SECONDS
    others = [threading.Thread(target=send, args=(books, number, end, pause)) for number in range(senders)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    stop(books)
    return books


@contextmanager
def all_kinds(certificate: tuple[Path, Path]) -> Iterator[list[Work]]:
    """Every kind of work; checked in the end, with all that they have opened given back."""
    print(f"ITR_TEST_SEED={SEED}")
    surroundings = Surroundings()
    hook = sys.unraisablehook
    with ExitStack() as undo:
        # pytest has put its own before ours, which swallows what comes out of a finalizer that waits.
        sys.unraisablehook = _unraisable._hook
        undo.callback(setattr, sys, "unraisablehook", hook)
        works: list[Work] = [*(kind() for kind in KINDS), Tls(certificate)]
        for work in works:
            undo.callback(work.close)
        yield works
        for work in works:
            work.check()
    del works, work
    surroundings.check()


def run(certificate: tuple[Path, Path], threads: int, pause: float = 0.002) -> None:
    with all_kinds(certificate) as works:
        books = storm(works, threads, pause)
        check_masks(books.victims)
        delivered = books.balance()
        print(json.dumps(books.counters()))
        assert delivered > 0
        books.handles.clear()  # they know their exceptions, whose tracebacks know children that nobody has waited for


def test_plain(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, 12)


def test_five_hundred_threads(certificate: tuple[Path, Path], quiet: None) -> None:
    run(certificate, 500, 0.0005)


def test_traced(certificate: tuple[Path, Path], quiet: None) -> None:
    """Every thread is traced."""
    lines = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        lines[0] += 1
        return trace

    threading.settrace(trace)
    try:
        run(certificate, 8)
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
        with all_kinds(certificate) as works:
            books = storm([*works, Garbage()], 8)
            check_masks(books.victims)
            assert books.balance() > 0
            print(json.dumps(books.counters()))
            books.handles.clear()
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*thresholds)
    assert not lock.locked()


PLAIN = """
import os, random, sys, threading, time
sys.path[:0] = sys.argv[1:]
from interruptible_threading import ThreadInterrupted
from stress_support import plain_interrupt, spin
from work import SimpleQueues
dice = random.Random(7)
def body(work, stop):
    while not stop:
        try:
            work.do(dice, False)
        except ThreadInterrupted:
            pass
for _ in range(300):
    work, stop = SimpleQueues(), []
    threads = [threading.Thread(target=body, args=(work, stop), daemon=True) for _ in range(4)]
    for thread in threads: thread.start()
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        plain_interrupt(dice.choice(threads))
        spin(dice.randrange(300))
    stop.append(1)
    for thread in threads: thread.join(1)
    if any(thread.is_alive() for thread in threads):
        continue  # that may be lost as well, the end of a mask for example
    try:
        work.check()
    except AssertionError as error:
        print("seen:", error, flush=True)
        break
os._exit(0)
"""


def test_the_books_see_what_plain_async_exceptions_lose() -> None:
    """The same work, interrupted as CPython can do it by itself: what was got is lost, and the books say so."""
    here = Path(__file__).parent
    done = run_python("-c", PLAIN, str(here), str(here.parent / "python"))
    assert "seen: SimpleQueues: lost" in done.stdout, done.stdout + done.stderr
