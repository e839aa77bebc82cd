"""What the pure-Python library of this name promised, tested anew, and its eight bugs, which do not exist here."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from interruptible_threading import (
    InterruptibleThread,
    ThreadInterrupted,
    check_interrupt,
    clear_interrupt,
    critical_section,
    interrupts_disabled,
    is_interrupted,
    periodic_checkpoint,
)
from stress_support import switch_interval
from support import GUARD, LONG, POLL, RECV, SEM, SLEEP, Scene, Worker, parked, wait_until


class Seeded(InterruptibleThread):
    """An InterruptibleThread that keeps what its call returned or raised."""

    def __init__(self, call: Any) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.entered = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()
        assert self.entered.wait(GUARD)  # no interrupt comes before the `try`

    def run(self) -> None:
        try:
            self.entered.set()
            self.result = self.call()
        except BaseException as error:
            self.error = error

    def finish(self) -> BaseException | None:
        self.join(GUARD)
        assert not self.is_alive(), "stuck"
        return self.error


def interrupted(thread: Seeded) -> None:
    error = thread.finish()
    assert type(error) is ThreadInterrupted, (error, thread.result)


def loop() -> None:
    while True:
        pass


@pytest.fixture(params=[False, True], ids=["", "traced"])
def tracing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under a Python trace function in every thread, or not."""
    before = threading.gettrace() if hasattr(threading, "gettrace") else None

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return trace

    if request.param:
        threading.settrace(trace)
    yield
    threading.settrace(before)  # type: ignore[arg-type]


# ---- its tests --------------------------------------------------------------------------------------------------------------------


def test_pure_loop(tracing: None, quiet: None) -> None:
    thread = Seeded(loop)
    thread.interrupt()
    interrupted(thread)


def test_sleep(tracing: None, quiet: None) -> None:
    thread = Seeded(partial(time.sleep, LONG))
    parked(thread, *SLEEP)
    assert thread.interrupt() is None
    interrupted(thread)


def test_race_against_entering_sleep(tracing: None, quiet: None) -> None:
    with switch_interval(0.0005):  # else most of the time goes by while one thread waits for its turn
        for turn in range(150):
            entering: list[bool] = []

            def call(entering: list[bool] = entering, turn: int = turn) -> None:
                entering.append(True)
                for _ in range(turn):
                    pass
                time.sleep(LONG)

            thread = Seeded(call)
            while not entering:
                pass
            thread.interrupt()
            interrupted(thread)


def test_many_sleepers(tracing: None, quiet: None) -> None:
    """Also: parked threads open no descriptors. What else lives in this process may open some meanwhile, but not so many."""
    before = len(os.listdir("/proc/self/fd"))
    threads = [Seeded(partial(time.sleep, LONG)) for _ in range(40)]
    for thread in threads:
        parked(thread, *SLEEP)
    assert len(os.listdir("/proc/self/fd")) < before + len(threads)
    for thread in threads:
        thread.interrupt()
    for thread in threads:
        interrupted(thread)


def test_select(quiet: None) -> None:
    with Scene() as scene:
        r, _ = scene.pipe()
        for timeout in ((), (LONG,)):
            thread = Seeded(partial(select.select, [r], [], [], *timeout))
            parked(thread, "select", "pselect")
            thread.interrupt()
            interrupted(thread)


def test_recursive(quiet: None) -> None:
    order: list[str] = []
    threads: dict[str, Any] = {}
    ready = threading.Barrier(5)

    def node(name: str, children: tuple[str, ...], kind: Any) -> None:
        for child in children:
            threads[child] = kind(target=node, args=(child, (), kind), daemon=True)
            threads[child].start()
        try:
            ready.wait(GUARD)
            time.sleep(LONG)
        except ThreadInterrupted:
            order.append(name)

    root = InterruptibleThread(target=node, args=("root", ("a", "b"), InterruptibleThread), daemon=True)
    other = InterruptibleThread(target=node, args=("other", (), threading.Thread), daemon=True)
    root.start()
    other.start()
    ready.wait(GUARD)
    for thread in (*threads.values(), root):
        parked(thread, *SLEEP)
    root.interrupt(recursive=True)
    for thread in (*threads.values(), root):
        thread.join(GUARD)
    assert sorted(order) == ["a", "b", "root"]
    other.interrupt()
    other.join(GUARD)


def test_recursive_reaches_plain_threads_and_grandchildren(quiet: None) -> None:
    order: list[int] = []
    chain: list[Any] = []
    deep = threading.Event()

    def node(depth: int) -> None:
        if depth < 3:
            # Inside interruptible threads threading.Thread is InterruptibleThread; a plain one is made by its own name.
            child = (PlainThread if depth % 2 else threading.Thread)(target=node, args=(depth + 1,), daemon=True)
            chain.append(child)
            child.start()
        else:
            deep.set()
        try:
            time.sleep(LONG)
        except ThreadInterrupted:
            order.append(depth)

    root = InterruptibleThread(target=node, args=(0,), daemon=True)
    chain.append(root)
    root.start()
    assert deep.wait(GUARD)
    for thread in chain:
        parked(thread, *SLEEP)
    root.interrupt(recursive=True)
    for thread in chain:
        thread.join(GUARD)
    assert sorted(order) == [0, 1, 2, 3]
    assert [type(thread) for thread in chain] == [InterruptibleThread, InterruptibleThread, PlainThread, PlainThread]


PlainThread = threading.Thread


def test_finished_child_is_forgotten(quiet: None) -> None:
    ready = threading.Event()

    def parent() -> None:
        child = threading.Thread(target=int)
        child.start()
        child.join()
        ready.set()
        time.sleep(LONG)

    thread = Seeded(parent)
    assert ready.wait(GUARD)
    parked(thread, *SLEEP)
    thread.interrupt(recursive=True)
    interrupted(thread)


def test_masks_nested(quiet: None) -> None:
    steps: list[str] = []

    def call() -> None:
        with interrupts_disabled():
            with critical_section():
                steps.append("masked")
                while not is_interrupted():
                    pass
            steps.append("inner left")
        steps.append("never")

    thread = Seeded(call)
    wait_until(lambda: steps, "it is masked")
    thread.interrupt()
    interrupted(thread)
    assert steps == ["masked", "inner left"]


def test_checkpoint_in_a_loop(quiet: None) -> None:
    def call() -> None:
        with periodic_checkpoint(every=10) as ticker:
            while True:
                ticker.tick()

    thread = Seeded(call)
    thread.interrupt()
    interrupted(thread)


def test_clear_while_masked(quiet: None) -> None:
    steps: list[Any] = []

    def call() -> str:
        with critical_section():
            steps.append("masked")
            while not is_interrupted():
                pass
            steps.append(clear_interrupt())
        time.sleep(0)
        return "went on"

    thread = Seeded(call)
    wait_until(lambda: steps, "it is masked")
    thread.interrupt()
    assert thread.finish() is None
    assert (thread.result, steps) == ("went on", ["masked", True])


def test_catch_clear_go_on(quiet: None) -> None:
    def call() -> list[Any]:
        try:
            time.sleep(LONG)
        except ThreadInterrupted:
            seen = [clear_interrupt()]
        time.sleep(0.001)
        threading.Event().wait(0.001)
        return [*seen, is_interrupted()]

    thread = Seeded(call)
    parked(thread, *SLEEP)
    thread.interrupt()
    assert thread.finish() is None
    assert thread.result == [False, False]


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("kind", ["Event", "Queue", "Condition"])
def test_waits(kind: str, timeout: float | None, quiet: None) -> None:
    condition = threading.Condition()

    def wait_for_condition() -> None:
        with condition:
            condition.wait(timeout)

    calls = {
        "Event": partial(threading.Event().wait, timeout),
        "Queue": partial(queue.Queue().get, True, timeout),
        "Condition": wait_for_condition,
    }
    thread = Seeded(calls[kind])
    parked(thread, *SEM)
    thread.interrupt()
    interrupted(thread)
    with condition:
        condition.notify_all()


@pytest.mark.parametrize("timeout", [None, LONG])
def test_recv_keeps_the_timeout(timeout: float | None, quiet: None) -> None:
    with Scene() as scene:
        a, b = scene.socketpair(timeout)
        thread = Seeded(partial(a.recv, 1))
        parked(thread, *RECV, *POLL)
        thread.interrupt()
        interrupted(thread)
        assert a.gettimeout() == timeout
        b.sendall(b"x")
        assert a.recv(1) == b"x"


def test_finished_thread_is_refused() -> None:
    thread = Seeded(int)
    thread.finish()
    with pytest.raises(ValueError, match="finished"):
        thread.interrupt()
    with pytest.raises(ValueError, match="finished"):
        thread.interrupt(recursive=True)


def test_checkpoint_on_the_main_thread() -> None:
    assert check_interrupt() is None
    assert clear_interrupt() is False
    assert is_interrupted() is False
    with critical_section():
        assert check_interrupt() is None


def test_idempotent_while_pending(quiet: None) -> None:
    with Scene():
        steps: list[str] = []

        def call() -> None:
            with critical_section():
                steps.append("masked")
                while len(steps) < 2:
                    pass
            steps.append("never")

        thread = Seeded(call)
        wait_until(lambda: steps, "it is masked")
        for _ in range(5):
            thread.interrupt()
        steps.append("go on")
        interrupted(thread)
        assert steps == ["masked", "go on"]


def test_children_are_interruptible(quiet: None) -> None:
    """Inside an interruptible thread threading.Thread is InterruptibleThread, executor workers included."""
    from concurrent.futures import ThreadPoolExecutor

    def call() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            worker = executor.submit(threading.current_thread).result()
        return [threading.Thread, type(worker)]

    def name() -> type[threading.Thread]:
        return threading.Thread

    for _ in range(100):  # the interpreter specialises what reads a module's attribute
        assert name() is PlainThread
        with ThreadPoolExecutor(1) as executor:
            executor.submit(int).result()
    thread = Seeded(call)
    assert thread.finish() is None
    assert thread.result == [InterruptibleThread, InterruptibleThread]
    other = Seeded(name)
    assert other.finish() is None
    assert other.result is InterruptibleThread
    assert threading.Thread is PlainThread
    assert Worker(lambda: threading.Thread).value() is PlainThread
