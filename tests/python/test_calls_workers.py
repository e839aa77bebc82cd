"""Executors, timers, and multiprocessing's locks, connections and queues: each parked for real and broken."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, interrupt
from support import GUARD, LONG, POLL, READ, SEM, SLEEP, WAIT, Case, Cases, Scene, Worker, in_thread, parked, wait_until

cases = Cases()
Steps = Iterator[Callable[[], Any]]
context = multiprocessing.get_context("spawn")


# ---- waiting for an executor ---------------------------------------------------------------------------------------------


def busy_executor(scene: Scene) -> tuple[ThreadPoolExecutor, Future[bool], threading.Event]:
    """Its only worker is at work already."""
    executor = ThreadPoolExecutor(1)
    begun, done = threading.Event(), threading.Event()
    scene.callback(executor.shutdown)
    scene.callback(done.set)

    def work() -> bool:
        begun.set()
        return done.wait()

    future = executor.submit(work)
    assert begun.wait(GUARD)
    return executor, future, done


@cases(*SEM)
def future_result(scene: Scene, timeout: float | None) -> Steps:
    _, future, done = busy_executor(scene)
    yield partial(future.result, timeout)
    assert future.running()
    done.set()
    assert future.result(GUARD) is True


@cases(*SEM)
def future_exception(scene: Scene, timeout: float | None) -> Steps:
    _, future, done = busy_executor(scene)
    yield partial(future.exception, timeout)
    done.set()
    assert future.exception(GUARD) is None


@cases(*SEM)
def wait_for_futures(scene: Scene, timeout: float | None) -> Steps:
    _, future, done = busy_executor(scene)
    yield partial(concurrent.futures.wait, [future], timeout)
    done.set()
    assert concurrent.futures.wait([future], GUARD).done == {future}


@cases(*SEM)
def as_completed(scene: Scene, timeout: float | None) -> Steps:
    _, future, done = busy_executor(scene)
    yield lambda: list(concurrent.futures.as_completed([future], timeout))
    done.set()
    assert list(concurrent.futures.as_completed([future], GUARD)) == [future]


@cases(*SEM)
def executor_map(scene: Scene, timeout: float | None) -> Steps:
    executor, _, done = busy_executor(scene)
    yield lambda: list(executor.map(str, [1, 2], timeout=timeout))
    done.set()
    assert list(executor.map(str, [1, 2], timeout=GUARD)) == ["1", "2"]


@cases(*SEM, timeouts=(None,))
def executor_shutdown(scene: Scene, timeout: None) -> Steps:
    executor, future, done = busy_executor(scene)
    yield executor.shutdown
    assert future.running()
    done.set()
    executor.shutdown()


@cases(*SEM, timeouts=(None,))
def with_executor(scene: Scene, timeout: None) -> Steps:
    done = threading.Event()
    scene.callback(done.set)

    def use() -> None:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(done.wait)

    yield use


# ---- interrupting a worker of an executor, and a timer --------------------------------------------------------------------


def test_executor_worker(quiet: None) -> None:
    """The task ends with the interrupt, the worker goes on with the next task."""
    with ThreadPoolExecutor(1) as executor:
        worker = executor.submit(threading.current_thread).result()
        for _ in range(3):
            future = executor.submit(time.sleep, LONG)
            parked(worker, *SLEEP)
            handle = interrupt(worker)
            error = future.exception(GUARD)
            assert type(error) is ThreadInterrupted
            assert error.interrupt_id == handle.id
            assert handle.state == "delivered"
        assert executor.submit(threading.get_ident).result() == worker.ident


def test_idle_executor_worker(quiet: None) -> None:
    """An idle worker waits for work in the executor's own code; it ends, and the executor says so or makes another one."""
    ended: list[Any] = []
    before = threading.excepthook
    threading.excepthook = ended.append
    try:
        executor = ThreadPoolExecutor(1)
        worker = executor.submit(threading.current_thread).result()
        parked(worker, *SEM)
        handle = interrupt(worker)
        assert handle.wait(GUARD)
        executor.shutdown(wait=False)
        worker.join(GUARD)
        assert not worker.is_alive()
        assert handle.state == "delivered"
    finally:
        threading.excepthook = before


def test_timer(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Timer that waits ends with the interrupt; its function is not called."""
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    called: list[bool] = []
    timer = threading.Timer(LONG, called.append, [True])
    timer.daemon = True
    timer.start()
    parked(timer, *SEM)
    handle = interrupt(timer)
    timer.join(GUARD)
    assert not timer.is_alive()
    assert (handle.state, called) == ("delivered", [])
    assert [args.exc_type for args in ended] in ([ThreadInterrupted], [])


def test_running_timer(quiet: None) -> None:
    outcomes: list[BaseException] = []

    def function() -> None:
        try:
            time.sleep(LONG)
        except ThreadInterrupted as error:
            outcomes.append(error)

    timer = threading.Timer(0, function)
    timer.start()
    parked(timer, *SLEEP)
    interrupt(timer)
    timer.join(GUARD)
    assert [type(error) for error in outcomes] == [ThreadInterrupted]


# ---- multiprocessing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_semlock(kind: str, timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        lock: Any = getattr(context, kind)()
        lock.acquire()
        yield partial(lock.acquire, True, timeout)
        assert in_thread(partial(lock.acquire, False)) is False
        lock.release()
        assert in_thread(lambda: (lock.acquire(timeout=GUARD), lock.release())[0])

    Case(steps, SEM, timeout).run()


@cases(*SEM, timeouts=(None,))
def with_semlock(scene: Scene, timeout: None) -> Steps:
    lock, entered = context.Lock(), []
    lock.acquire()

    def use() -> None:
        with lock:
            entered.append(True)

    yield use
    assert entered == []
    lock.release()
    use()
    assert entered == [True]


@cases(*SEM)
def process_event(scene: Scene, timeout: float | None) -> Steps:
    event = context.Event()
    yield partial(event.wait, timeout)
    event.set()
    assert event.wait(GUARD)


@cases(*SEM)
def process_condition(scene: Scene, timeout: float | None) -> Steps:
    condition = context.Condition()

    def wait(timeout: float | None) -> Any:
        with condition:
            return condition.wait(timeout)

    yield partial(wait, timeout)
    waiter = Worker(partial(wait, GUARD))
    parked(waiter, *SEM)
    with condition:
        condition.notify_all()
    assert waiter.value() is True


@cases(*READ, timeouts=(None,))
def connection_recv(scene: Scene, timeout: None) -> Steps:
    a, b = context.Pipe()
    scene.enter_context(a)
    scene.enter_context(b)
    yield a.recv
    b.send("whole")
    assert a.recv() == "whole"


@cases(*POLL)
def connection_poll(scene: Scene, timeout: float | None) -> Steps:
    a, b = context.Pipe()
    scene.enter_context(a)
    scene.enter_context(b)
    yield partial(a.poll, timeout)
    b.send_bytes(b"bytes")
    assert a.poll(GUARD)
    assert a.recv_bytes() == b"bytes"


@cases(*POLL)
def connection_wait(scene: Scene, timeout: float | None) -> Steps:
    a, b = context.Pipe()
    scene.enter_context(a)
    scene.enter_context(b)
    yield partial(multiprocessing.connection.wait, [a], timeout)
    b.send(1)
    assert multiprocessing.connection.wait([a], GUARD) == [a]


@cases(*READ, timed=POLL)
def process_queue(scene: Scene, timeout: float | None) -> Steps:
    q: multiprocessing.queues.Queue[int] = context.Queue()
    scene.callback(q.join_thread)
    scene.callback(q.close)
    yield partial(q.get, True, timeout)
    for item in range(3):
        q.put(item)
    assert [in_thread(partial(q.get, timeout=GUARD)) for _ in range(3)] == [0, 1, 2]


@cases(*SEM)
def full_process_queue(scene: Scene, timeout: float | None) -> Steps:
    q: multiprocessing.queues.Queue[int] = context.Queue(1)
    scene.callback(q.join_thread)
    scene.callback(q.close)
    q.put(1)
    yield partial(q.put, 2, True, timeout)
    assert q.get(timeout=GUARD) == 1
    q.put(3, timeout=GUARD)
    assert q.get(timeout=GUARD) == 3


@cases(*READ, timeouts=(None,))
def simple_process_queue(scene: Scene, timeout: None) -> Steps:
    q: multiprocessing.queues.SimpleQueue[str] = context.SimpleQueue()
    yield q.get
    q.put("item")
    assert in_thread(q.get) == "item"


@cases(*SEM, timeouts=(None,))
def joinable_process_queue(scene: Scene, timeout: None) -> Steps:
    q: multiprocessing.queues.JoinableQueue[int] = context.JoinableQueue()
    scene.callback(q.join_thread)
    scene.callback(q.close)
    q.put(1)
    yield q.join
    assert q.get(timeout=GUARD) == 1
    q.task_done()
    in_thread(q.join)


@cases(*WAIT, timed=POLL)
def process_join(scene: Scene, timeout: float | None) -> Steps:
    process = context.Process(target=time.sleep, args=(LONG,))
    process.start()
    scene.callback(process.kill)
    yield partial(process.join, timeout)
    assert process.is_alive()
    process.kill()
    process.join(GUARD)
    wait_until(lambda: process.exitcode is not None, "the process ends")
    assert process.exitcode == -9


@pytest.mark.parametrize("case", cases.params)
def test_broken(case: Case, quiet: None) -> None:
    case.run()
