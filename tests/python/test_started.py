"""Who starts a thread, a child or a task is interrupted at that moment: what was started is known to it, and is done.

An interrupt of the calling thread's own is pending from the start: every call that may raise it would.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import (
    InterruptibleThread,
    ThreadInterrupted,
    check_interrupt,
    deliver_on_blocking,
    interrupt,
)
from stress_support import switch_interval
from support import GUARD, LONG, SEM, Scene, Worker, parked

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
CONTEXTS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])


class Armed(threading.Thread):
    """Runs ``steps(arm)``, in which ``arm()`` gives the thread an interrupt, which its blocking calls have to raise."""

    def __init__(self, steps: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(daemon=True)
        self.steps = steps
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with deliver_on_blocking():
                self.value = self.steps(partial(interrupt, threading.current_thread()))
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(GUARD)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.value


def raised() -> bool:
    """Is one pending? It is raised in here."""
    try:
        check_interrupt()
    except ThreadInterrupted:
        return True
    return False


@pytest.mark.parametrize("kind", [threading.Thread, InterruptibleThread, threading.Timer])
def test_a_thread(kind: Any) -> None:
    ran = threading.Event()

    def steps(arm: Any) -> Any:
        thread = kind(0, ran.set) if kind is threading.Timer else kind(target=ran.set)
        arm()
        thread.start()
        assert raised()
        return thread

    thread = Armed(steps).result()
    thread.join(GUARD)
    assert ran.is_set()


@CONTEXTS
def test_a_child(method: str) -> None:
    with Scene() as scene:
        context = multiprocessing.get_context(method)

        def steps(arm: Any) -> Any:
            process = context.Process(target=time.sleep, args=(LONG,), daemon=True)  # type: ignore[attr-defined]
            arm()
            process.start()
            scene.callback(process.kill)
            assert raised()
            return process

        process = Armed(steps).result()
        assert process.is_alive()
        process.kill()
        process.join(GUARD)
        assert process.exitcode == -9


class Arming:
    """A queue whose put() interrupts its thread when the item is in there."""

    def __init__(self, queue: Any, arm: Callable[[], Any]) -> None:
        self.queue = queue
        self.arm = arm

    def put(self, item: Any) -> None:
        self.queue.put(item)
        self.arm()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)


def submits(executor: Any) -> Any:
    """What became of three tasks; submit() is interrupted behind each, and raises nothing."""
    futures = []
    for number in range(3):
        futures.append(executor.submit(int, str(number)))
        assert raised()
    return [future.result(GUARD) for future in futures]


def test_a_pools_tasks() -> None:
    """The first time a thread is started for it."""
    with ThreadPoolExecutor(2) as executor:

        def steps(arm: Any) -> Any:
            executor._work_queue = Arming(executor._work_queue, arm)  # type: ignore[assignment]
            return submits(executor)

        assert Armed(steps).result() == [0, 1, 2]


def test_a_process_pools_tasks() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:

        def steps(arm: Any) -> Any:
            executor._work_ids = Arming(executor._work_ids, arm)  # type: ignore[attr-defined]
            return submits(executor)

        assert Armed(steps).result() == [0, 1, 2]


def test_a_task_comes_together_with_an_interrupt() -> None:
    """The worker that was woken for it does it; it is the task that is interrupted."""
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(int, "1").result(GUARD) == 1
        (worker,) = executor._threads
        parked(worker, *SEM)
        with switch_interval(GUARD):  # the worker does not get to run in between
            interrupt(worker)
            future = executor.submit(time.sleep, LONG)
        assert isinstance(future.exception(GUARD), ThreadInterrupted)


@pytest.mark.parametrize("how", ["result", "exception"])
def test_what_became_of_a_task_is_told(how: str) -> None:
    """To each that waits for it, whatever is pending."""
    future: Future[int] = Future()
    other: Future[int] = Future()
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiters = [Worker(lambda: next(as_completed([future, other]))), Worker(partial(future.exception, GUARD))]
    for waiter in waiters:
        parked(waiter, *SEM)

    def steps(arm: Any) -> Any:
        arm()
        assert future.set_running_or_notify_cancel()
        if how == "result":
            future.set_result(7)
        else:
            future.set_exception(KeyError())
        return raised()

    future.add_done_callback(got.put)
    assert Armed(steps).result() is True
    assert waiters[0].value() is future
    assert got.get(timeout=GUARD) is future
