"""The eight bugs of the pure-Python library of this name, which do not exist here (the second: test_consumed_when_raised)."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
import time
from functools import partial
from typing import Any

import pytest
from interruptible_threading import (
    InterruptibleThread,
    ThreadInterrupted,
    check_interrupt,
    clear_interrupt,
    critical_section,
    interrupt,
    is_interrupted,
)
from stress_support import switch_interval
from support import GUARD, LONG, SLEEP, Scene, parked, run_script, wait_until
from test_seed import Seeded, interrupted


def test_bug_1_unstarted_thread_does_not_mark_the_caller(quiet: None) -> None:
    def call() -> list[Any]:
        other = InterruptibleThread(target=int)
        other.interrupt()
        seen = [is_interrupted(), is_interrupted(other)]
        time.sleep(0)
        check_interrupt()
        return [*seen, clear_interrupt()]

    thread = Seeded(call)
    assert thread.finish() is None
    assert thread.result == [False, True, False]


def test_bug_3_masked_select_has_no_false_timeout(quiet: None) -> None:
    results: list[Any] = []
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> None:
            with critical_section():
                results.append(select.select([r], [], [], LONG))

        thread = Seeded(call)
        parks = parked(thread, "select", "pselect")["parks"]
        thread.interrupt()
        time.sleep(0.05)
        assert results == []
        assert parked(thread, "select", "pselect")["parks"] == parks, "woken, though it is masked"
        os.write(w, b"x")
        interrupted(thread)
        assert results == [([r], [], [])]


def test_bug_4_mask_under_run_interruptible(quiet: None) -> None:
    steps: list[str] = []

    async def main() -> None:
        with critical_section():
            steps.append("masked")
            while not is_interrupted():
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0.001)
            steps.append("whole")
        await asyncio.sleep(LONG)

    thread = Seeded(lambda: InterruptibleThread.run_interruptible(main()))
    wait_until(lambda: steps, "it is masked")
    thread.interrupt()
    interrupted(thread)
    assert steps == ["masked", "whole"]


@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan")])
def test_bug_5_negative_sleep(seconds: float) -> None:
    with pytest.raises(ValueError):
        time.sleep(seconds)
    thread = Seeded(partial(time.sleep, seconds))
    assert isinstance(thread.finish(), ValueError)


def test_bug_6_timers_and_early_threads_and_classes() -> None:
    """Timer: test_calls_workers. Here what existed before the patches."""
    script = """
import threading, time
lock = threading.Lock(); lock.acquire()
caught, entered = [], []
def body():
    try:
        entered.append(threading.current_thread())
        lock.acquire(timeout=10**6)
    except BaseException as error: caught.append(type(error).__name__)
class Early(threading.Thread):
    def run(self): body()
early = threading.Thread(target=body, daemon=True); early.start()
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
late = Early(daemon=True); late.start()
while early not in entered or late not in entered or not (_core.park_info(late.ident) or {}).get("parked"): time.sleep(0.001)
it.interrupt(late); late.join(60)
it.interrupt(early); lock.release(); early.join(60)
print(caught, early.is_alive())
"""
    # `early` is parked in a call from before the patches; it gets the lock, and ends: its interrupt is discarded then.
    assert run_script(script) in ("['ThreadInterrupted'] False\n", "['ThreadInterrupted', 'ThreadInterrupted'] False\n")


def test_bug_7_reason_and_whether_it_was_delivered(quiet: None) -> None:
    thread = Seeded(partial(time.sleep, LONG))
    parked(thread, *SLEEP)
    handle = interrupt(thread, reason="because")
    assert handle.wait(GUARD)
    error: Any = thread.finish()
    assert (handle.state, error.reason) == ("delivered", "because")


@pytest.mark.parametrize("profiler", ["settrace", "setprofile", "C"])
def test_bug_8_lock_operations_under_a_tracer(profiler: str, quiet: None) -> None:
    """Interrupts of threads that do nothing but lock operations under a tracer: no thread is wedged, no lock is lost."""
    lock = threading.Lock()
    rounds, caught = [0, 0], [0, 0]
    stop: list[bool] = []

    def work(number: int) -> None:
        untrace = _tracer(profiler)
        while not stop:
            try:
                while not stop:
                    with lock:
                        rounds[number] += 1
            except ThreadInterrupted:
                caught[number] += 1
        untrace()

    threads = [Seeded(partial(work, number)) for number in range(2)]
    with switch_interval(0.0005):  # else most of the time goes by while one thread waits for its turn
        for turn in range(100):
            number, count = turn % 2, turn // 2
            before = rounds[number]
            wait_until(lambda number=number, before=before: rounds[number] > before + 1, "the thread goes on in its inner loop")
            handle = interrupt(threads[number])
            assert handle.wait(GUARD), handle.explain()
            wait_until(lambda number=number, count=count: caught[number] > count, "its own except clause catches it")
        stop.append(True)
        for thread in threads:
            assert thread.finish() is None
    assert caught == [50, 50]
    assert not lock.locked()


def _tracer(kind: str) -> Any:
    """Switch a tracer on for the calling thread; the result switches it off."""
    if kind == "C":
        import cProfile

        if sys.version_info >= (3, 12):
            return int  # one profiler a process there: sys.monitoring
        profile = cProfile.Profile()
        profile.enable()
        return profile.disable

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return trace

    getattr(sys, kind)(trace)
    return partial(getattr(sys, kind), None)
