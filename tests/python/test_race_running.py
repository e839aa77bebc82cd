"""A thread that does nothing but run code comes to each of its interrupts, with nobody else to make it look."""

from __future__ import annotations

import io
import threading

import pytest
from interruptible_threading import ThreadInterrupted, interrupt
from stress_support import count, switch_interval
from support import GUARD, wait_until


class Shown:
    def __format__(self, spec: str) -> str:
        return "formatted"

    def __str__(self) -> str:
        return "shown"


def work() -> None:
    """Many places that hold a result, so that many looks are in vain."""
    text = f"{Shown()} {Shown()!s}"
    print(Shown(), text, file=io.StringIO(), sep="", flush=True)
    "".join(map(str, [Shown(), Shown()]))


@pytest.mark.parametrize("interval", [None, 1e-5], ids=["switching", "switching-often"])
def test_nobody_else_needs_the_interpreter(interval: float | None, quiet: None) -> None:
    """Up to 3.12 two signals at a time could erase each other: 1 interrupt of 10,000 waited for ever."""
    begun = caught = 0
    over = False

    def body() -> None:
        nonlocal begun, caught
        while not over:
            try:
                begun += 1
                while not over:
                    work()
            except ThreadInterrupted:
                caught += 1

    thread = threading.Thread(target=body, daemon=True)
    with switch_interval(interval):
        thread.start()
        for sent in range(1, count(300) + 1):
            wait_until(lambda: begun == sent, "the thread is in its loop")
            handle = interrupt(thread)
            assert handle.wait(GUARD), handle.explain()
        wait_until(lambda: caught == sent, "the last one is caught")
        over = True
        thread.join()
