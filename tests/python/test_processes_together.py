"""multiprocessing's queues, messages and conditions, interrupted between the parts of what they do."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest
from interruptible_threading import ThreadInterrupted, deliver_on_blocking, interrupt
from support import GUARD, READ, SEM, Worker, in_thread, parked, wait_until
from test_started import Armed, raised
from test_together import then_interrupted

context = get_context("fork")
WRITE = ("write", "__write_chk")
BIG = b"message" * 100000


def parked_anew(worker: Worker, parks: int, *calls: str) -> None:
    """Wait until it is parked in a later wait than its ``parks`` first ones."""
    wait_until(lambda: parked(worker, *calls)["parks"] > parks, f"parked again, in {calls}")


def parked_in_the_middle(worker: Worker, reading: int) -> None:
    """Wait until it has sent the length of a message that is too long for the pipe, and a part of it.

    Not while it sends the length: that is a message's end to those who read on, and a thread stays in a call that does not
    wait for as long as others have the processor.
    """
    wait_until(lambda: struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))[0] > 4, "a part is sent")
    parked(worker, *WRITE)


def test_the_rest_of_a_message_is_received() -> None:
    a, b = context.Pipe(duplex=False)
    with a, b:
        worker = Worker(partial(then_interrupted, a.recv_bytes))
        parks = parked(worker, *READ)["parks"]
        os.write(b.fileno(), struct.pack("!i", 6))
        parked_anew(worker, parks, *READ)
        parks = parked(worker, *READ)["parks"]
        os.write(b.fileno(), b"who")
        parked_anew(worker, parks, *READ)
        interrupt(worker)
        os.write(b.fileno(), b"le.")
        assert worker.value() == b"whole."
        b.send("next")
        assert a.recv() == "next"


def test_no_message_has_begun() -> None:
    a, b = context.Pipe(duplex=False)
    with a, b:
        worker = Worker(a.recv_bytes)
        parked(worker, *READ)
        assert isinstance(worker.finish(interrupt(worker)).error, ThreadInterrupted)
        assert not a.closed
        b.send("first")
        assert a.recv() == "first"


def test_a_message_that_nobody_reads() -> None:
    """It can be interrupted; the connection is closed, and the other side is not given a part for the whole."""
    a, b = context.Pipe(duplex=False)
    with a, b:
        worker = Worker(partial(b.send_bytes, BIG))
        parked_in_the_middle(worker, a.fileno())
        assert isinstance(worker.finish(interrupt(worker)).error, ThreadInterrupted)
        assert b.closed
        with pytest.raises(OSError, match="got end of file during message"):
            a.recv_bytes()


def fill(connection: Connection) -> int:
    """Send short messages for as long as there is room for one and the length of another."""
    sent = 0
    os.set_blocking(connection.fileno(), False)
    with suppress(BlockingIOError):
        while True:
            sent += os.write(connection.fileno(), struct.pack("!i", 4) + b"full") // 8
    os.set_blocking(connection.fileno(), True)
    return sent


def test_a_message_that_cannot_begin() -> None:
    """It was not begun: the connection stays, and goes on with the next."""
    a, b = context.Pipe(duplex=False)
    with a, b:
        sent = fill(b)
        worker = Worker(partial(b.send_bytes, BIG))
        parked(worker, *WRITE)
        assert isinstance(worker.finish(interrupt(worker)).error, ThreadInterrupted)
        assert not b.closed
        assert [a.recv_bytes() for _ in range(sent)] == [b"full"] * sent
        b.send_bytes(b"next")
        assert a.recv_bytes() == b"next"


def test_an_item_that_was_begun() -> None:
    """Others may write to a queue's pipe: put() ends what it has begun."""
    q: Any = context.SimpleQueue()
    worker = Worker(partial(then_interrupted, partial(q.put, BIG)))
    parked_in_the_middle(worker, q._reader.fileno())
    interrupt(worker)
    assert in_thread(q.get) == BIG
    assert worker.value() is None
    q.put("next")
    assert q.get() == "next"


def test_a_queues_permit() -> None:
    q: Any = context.Queue(1)
    with q._notempty:
        worker = Worker(partial(then_interrupted, partial(q.put, "item")))
        parked(worker, *SEM)
        interrupt(worker)
    assert worker.value() is None
    assert q.get() == "item"
    q.put("next", timeout=GUARD)
    assert q.get() == "next"
    q.close()
    q.join_thread()


def held(condition: Any) -> bool:
    return bool(condition._lock._semlock._is_mine())


def test_a_condition_is_held_again() -> None:
    """However often it is interrupted meanwhile."""
    condition: Any = context.Condition()

    def wait() -> Any:
        with deliver_on_blocking(), condition, condition:
            try:
                condition.wait()
            except ThreadInterrupted:
                return held(condition) and condition._lock._semlock._count() == 2 and raised()

    worker = Worker(wait)
    parked(worker, *SEM)
    with condition:
        assert interrupt(worker).wait()
        parked(worker, *SEM)
        interrupt(worker)
    assert worker.value() is True
    with condition:
        condition.notify_all()


def test_a_conditions_notification() -> None:
    condition: Any = context.Condition()

    def wait() -> Any:
        with condition:
            return then_interrupted(condition.wait) and held(condition)

    worker = Worker(wait)
    parked(worker, *SEM)
    with condition:
        condition.notify()
        interrupt(worker)
    assert worker.value() is True


def test_a_notification_for_another() -> None:
    condition: Any = context.Condition()

    def wait() -> Any:
        with condition:
            return condition.wait()

    workers = []
    for _ in range(2):  # the one waits before the other comes: else it might be for the lock
        workers.append(Worker(wait))
        parked(workers[-1], *SEM)
    with condition:
        assert interrupt(workers[0]).wait()
        parked(workers[0], *SEM)
        condition.notify()
    assert isinstance(workers[0].finish().error, ThreadInterrupted)
    assert workers[1].value() is True


def test_who_notifies_is_interrupted() -> None:
    """It waits for those that it has told, and counts them right: the condition is as good as new."""
    condition: Any = context.Condition()

    def wait() -> Any:
        with condition:
            return condition.wait()

    def steps(arm: Any) -> bool:
        with condition:
            arm()
            condition.notify()
            return raised()

    for _ in range(3):
        worker = Worker(wait)
        parked(worker, *SEM)
        assert Armed(steps).result() is True
        assert worker.value() is True
