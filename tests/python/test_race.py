"""Interrupts that race with the completion of a call: no effect is lost, and each interrupt is delivered exactly once."""

from __future__ import annotations

import os
import queue
import socket
import threading
from typing import Any

import pytest
from stress_support import Books, Victim, count, plain_interrupt, rng, spin, storm, switch_interval, until

INTERVALS = pytest.mark.parametrize("interval", [None, 1e-5], ids=["switching", "switching-often"])


class Source:
    """Gives numbered bytes to whoever reads them."""

    def __init__(self, size: int = 1) -> None:
        self.sent = bytearray()
        self.size = size

    def next(self) -> bytes:
        data = bytes((len(self.sent) + i) % 251 for i in range(self.size))
        self.sent += data
        return data


def read_os(r: int) -> Any:
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += os.read(r, 100)

    return body, lambda: got


def read_os_argument(r: int) -> Any:
    """The bytes are an argument of a Python function when an interrupt may hit."""
    got = bytearray()

    def take(data: bytes) -> None:
        nonlocal got
        got += data

    def body(victim: Victim) -> None:
        while not victim.stopping:
            take(os.read(r, 100))

    return body, lambda: got


def read_line(r: int) -> Any:
    file = os.fdopen(r, "rb", closefd=False)
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += file.readline()

    return body, lambda: got + file.peek()


def read_buffered(r: int) -> Any:
    file = os.fdopen(r, "rb", closefd=False)
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += file.read1(100)

    return body, lambda: got + file.peek()


def read_raw(r: int) -> Any:
    file = os.fdopen(r, "rb", buffering=0, closefd=False)
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += file.read(100)

    return body, lambda: got


def read_into(r: int) -> Any:
    got = bytearray()
    buffers = [bytearray(50), bytearray(50)]

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            n = os.readv(r, buffers)
            got += b"".join(buffers)[:n]

    return body, lambda: got


@INTERVALS
@pytest.mark.parametrize("reader", [read_os, read_os_argument, read_line, read_buffered, read_raw, read_into])
def test_pipe(reader: Any, interval: float | None) -> None:
    """Every byte written is read, in order."""
    r, w = os.pipe()
    line = reader is read_line
    try:
        source = Source(64)
        body, got = reader(r)

        def feed() -> None:
            data = source.next()
            if line:
                del source.sent[-64:]
                data = data.replace(b"\n", b".")[:-1] + b"\n"
                source.sent.extend(data)
            os.write(w, data)

        victim = Victim(body)
        books = Books(victim)
        with switch_interval(interval):
            storm(books, count(300), rng(reader.__name__, interval), feed=feed)
        books.stop()
        os.write(w, b"\xff")
        have = bytes(got())  # with what a buffer has taken; peek() reads when there is nothing in it
        while not have.endswith(b"\xff"):
            have += os.read(r, 65536)
        assert have == bytes(source.sent) + b"\xff"
        assert books.balance() > count(300) // 10
    finally:
        os.close(r)
        os.close(w)


def recv(sock: socket.socket) -> Any:
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += sock.recv(100)

    return body, lambda: got


def recv_into(sock: socket.socket) -> Any:
    got = bytearray()
    buffer = bytearray(100)

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            n = sock.recv_into(buffer)
            got += buffer[:n]

    return body, lambda: got


def recv_file(sock: socket.socket) -> Any:
    file = sock.makefile("rb", buffering=0)
    got = bytearray()

    def body(victim: Victim) -> None:
        nonlocal got
        while not victim.stopping:
            got += file.read(100) or b""

    return body, lambda: got


@INTERVALS
@pytest.mark.parametrize("timeout", [None, 1000.0], ids=["blocking", "timeout"])
@pytest.mark.parametrize("reader", [recv, recv_into, recv_file])
def test_socket(reader: Any, timeout: float | None, interval: float | None) -> None:
    """Every byte sent is received, in order."""
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(timeout)
        source = Source(7)
        body, got = reader(a)
        victim = Victim(body)
        books = Books(victim)
        with switch_interval(interval):
            storm(books, count(200), rng(reader.__name__, timeout, interval), feed=lambda: b.sendall(source.next()))
        books.stop()
        b.close()
        a.settimeout(None)
        rest = b"".join(iter(lambda: a.recv(65536), b""))
        assert bytes(got()) + rest == bytes(source.sent)
        assert books.balance() > count(200) // 10


class Drain(threading.Thread):
    """Reads all there is in small and large pieces, slowly enough for the writer to be parked now and then."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.data = bytearray()
        self.start()

    def run(self) -> None:
        n = 1
        while True:
            data = self.sock.recv(n)
            if not data:
                return
            self.data += data
            n = n * 3 % 9973 + 1
            spin(200)


@INTERVALS
def test_send(interval: float | None) -> None:
    """What send() says it sent is what arrives."""
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    drain = Drain(b)
    chunk = b"x" * 20000
    sent = 0

    def body(victim: Victim) -> None:
        nonlocal sent
        while not victim.stopping:
            sent += a.send(chunk)

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(200), rng(interval))
    books.stop()
    a.close()
    drain.join()
    b.close()
    assert len(drain.data) == sent
    assert books.balance() > count(200) // 10


@INTERVALS
def test_sendall(interval: float | None) -> None:
    """A sendall() that returned has sent all, one that raised only a part."""
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    drain = Drain(b)
    size = 20000
    number = 0
    completed: list[int] = []

    def body(victim: Victim) -> None:
        nonlocal number
        while not victim.stopping:
            number += 1
            a.sendall(bytes([number % 251]) * size)
            completed.append(number)

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(200), rng(interval))
    books.stop()
    a.close()
    drain.join()
    b.close()
    at = 0
    whole = set(completed)
    for n in range(1, number + 1):
        run = len(drain.data[at : at + size]) - len(drain.data[at : at + size].lstrip(bytes([n % 251])))
        assert run == size if n in whole else run < size, f"message {n}: {run} bytes; completed: {n in whole}"
        at += run
    assert at == len(drain.data)
    assert books.balance() > count(200) // 10


def get_queue() -> Any:
    q: queue.Queue[int] = queue.Queue()
    return q.put, q.get, lambda: [q.get() for _ in range(q.qsize())]


def get_queue_timeout() -> Any:
    q: queue.Queue[int] = queue.Queue()
    return q.put, lambda: q.get(timeout=1000.0), lambda: [q.get() for _ in range(q.qsize())]


def get_simple_queue() -> Any:
    q: queue.SimpleQueue[int] = queue.SimpleQueue()
    return q.put, q.get, lambda: [q.get() for _ in range(q.qsize())]


def get_priority_queue() -> Any:
    q: queue.PriorityQueue[int] = queue.PriorityQueue()
    return q.put, q.get, lambda: [q.get() for _ in range(q.qsize())]


def get_by_condition() -> Any:
    condition = threading.Condition()
    items: list[int] = []

    def put(item: int) -> None:
        with condition:
            items.insert(0, item)
            condition.notify()

    got: list[int] = []

    def get() -> int:
        with condition:
            while not items:
                condition.wait()
            got.append(items.pop())
        return got[-1]

    return put, (get, got), lambda: items[::-1]


@INTERVALS
@pytest.mark.parametrize("make", [get_queue, get_queue_timeout, get_simple_queue, get_priority_queue, get_by_condition])
def test_queue(make: Any, interval: float | None) -> None:
    """Every item put is got once, in order."""
    put, get, rest = make()
    got: list[int] = []
    if isinstance(get, tuple):
        step, got = get

        def body(victim: Victim) -> None:
            while not victim.stopping:
                step()
    else:

        def body(victim: Victim) -> None:
            while not victim.stopping:
                got.append(get())

    sent = 0

    def feed() -> None:
        nonlocal sent
        put(sent)
        sent += 1

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(300), rng(make.__name__, interval), feed=feed)
    books.stop()
    assert [*got, *rest()] == list(range(sent))
    assert books.balance() > count(300) // 10


@INTERVALS
def test_queue_put(interval: float | None) -> None:
    """A put() that returned has put, one that raised has not; the queue is bounded, so it blocks."""
    q: queue.Queue[int] = queue.Queue(2)
    number = 0
    put: list[int] = []
    got: list[int] = []

    def body(victim: Victim) -> None:
        nonlocal number
        while not victim.stopping:
            number += 1
            q.put(number)
            put.append(number)

    def feed() -> None:
        try:
            got.append(q.get_nowait())
        except queue.Empty:
            pass

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(300), rng(interval), feed=feed)
    books.stop()
    got += [q.get_nowait() for _ in range(q.qsize())]
    assert got == put
    assert books.balance() > count(300) // 10


def test_the_checker_sees_what_a_plain_async_exception_loses() -> None:
    """The same rounds with PyThreadState_SetAsyncExc: these tests are able to fail."""
    r, w = os.pipe()
    source = Source(1)
    body, got = read_os(r)
    victim = Victim(body)
    for _ in range(count(200)):
        until(victim.parked, victim.where)
        before = len(victim.caught)
        plain_interrupt(victim)
        os.write(w, source.next())
        until(lambda before=before: len(victim.caught) > before or victim.failure, victim.where)
    Books(victim).stop()
    os.close(r)
    os.close(w)
    assert len(got()) < len(source.sent), "nothing was lost"
