"""select, poll, epoll, selectors; pipes, FIFOs, files, file locks: each parked for real and broken."""

from __future__ import annotations

import fcntl
import io
import os
import pathlib
import select
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Callable

import pytest
from support import EPOLL, LONG, OPEN, POLL, READ, Case, Cases, Scene, Worker, in_thread, lacks, parked

cases = Cases()
Steps = Iterator[Callable[[], Any]]


def in_units(timeout: float | None, unit: float = 1.0) -> tuple[float, ...]:
    return () if timeout is None else (timeout * unit,)


@cases("select", "pselect")
def select_select(scene: Scene, timeout: float | None) -> Steps:
    r, w = scene.pipe()
    yield partial(select.select, [r], [], [r], *in_units(timeout))
    assert select.select([r], [w], [], 0) == ([], [w], [])
    os.write(w, b"x")
    assert in_thread(lambda: select.select([r], [], [])) == ([r], [], [])


@cases("select", "pselect", "clock_nanosleep", timeouts=(LONG,))
def select_nothing(scene: Scene, timeout: float) -> Steps:
    yield partial(select.select, [], [], [], timeout)


@cases(*POLL)
def poll(scene: Scene, timeout: float | None) -> Steps:
    r, w = scene.pipe()
    poller = select.poll()
    poller.register(r, select.POLLIN)
    yield partial(poller.poll, *in_units(timeout, 1000))
    assert poller.poll(0) == []
    os.write(w, b"x")
    assert in_thread(poller.poll) == [(r, select.POLLIN)]


@cases(*EPOLL, marks=lacks(select, "epoll"))
def epoll(scene: Scene, timeout: float | None) -> Steps:
    r, w = scene.pipe()
    poller = scene.enter_context(select.epoll())
    poller.register(r, select.EPOLLIN)
    yield partial(poller.poll, *in_units(timeout))
    assert poller.poll(0) == []
    os.write(w, b"x")
    assert in_thread(poller.poll) == [(r, select.EPOLLIN)]


SELECTORS = [getattr(selectors, name) for name in ("SelectSelector", "PollSelector", "EpollSelector") if hasattr(selectors, name)]


@pytest.mark.parametrize("kind", SELECTORS)
@pytest.mark.parametrize("timeout", [None, LONG])
def test_selector(kind: Any, timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        r, w = scene.pipe()
        selector = scene.enter_context(kind())
        key = selector.register(r, selectors.EVENT_READ)
        yield partial(selector.select, timeout)
        os.write(w, b"x")
        assert in_thread(selector.select) == [(key, selectors.EVENT_READ)]

    Case(steps, ("select", "pselect", *POLL, *EPOLL), timeout).run()


# Reads from an empty pipe. Then the peer writes, and everything has to be there.
READS: dict[str, Callable[[int], Callable[[], Any]]] = {
    "os.read": lambda r: partial(os.read, r, 10),
    "os.readv": lambda r: partial(os.readv, r, [bytearray(4), bytearray(4)]),
    # With an offset of -1 they use the file position, as preadv2() and pwritev2() do, and so work on a pipe.
    "os.preadv": lambda r: partial(os.preadv, r, [bytearray(4), bytearray(4)], -1),
    "FileIO.read": lambda r: partial(io.FileIO(r, closefd=False).read, 10),
    "FileIO.read()": lambda r: io.FileIO(r, closefd=False).read,
    "FileIO.readall": lambda r: io.FileIO(r, closefd=False).readall,
    "FileIO.readinto": lambda r: partial(io.FileIO(r, closefd=False).readinto, bytearray(10)),
    "FileIO.readline": lambda r: io.FileIO(r, closefd=False).readline,
    "BufferedReader.read": lambda r: partial(open(r, "rb", closefd=False).read, 10),
    "BufferedReader.read()": lambda r: open(r, "rb", closefd=False).read,
    "BufferedReader.read1": lambda r: partial(open(r, "rb", closefd=False).read1, 10),
    "BufferedReader.readinto": lambda r: partial(open(r, "rb", closefd=False).readinto, bytearray(10)),
    "BufferedReader.readline": lambda r: open(r, "rb", closefd=False).readline,
    "BufferedReader.peek": lambda r: open(r, "rb", closefd=False).peek,
    "TextIOWrapper.read": lambda r: partial(open(r, closefd=False).read, 10),
    "TextIOWrapper.readline": lambda r: open(r, closefd=False).readline,
    "TextIOWrapper.__next__": lambda r: partial(next, open(r, closefd=False)),
}


@pytest.mark.parametrize("name", READS)
def test_reading_a_pipe(name: str, quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        r, w = scene.pipe()
        yield READS[name](r)
        os.write(w, b"all of it")
        assert os.read(r, 100) == b"all of it"

    Case(steps, ("readv", "preadv2", "preadv64v2") if name in ("os.readv", "os.preadv") else READ, None).run()


@pytest.mark.parametrize("method", ["read", "readline", "read1", "readinto", "peek"])
def test_buffered_reader_goes_on(method: str, quiet: None) -> None:
    """The very object whose read was broken reads everything that comes later, and its lock is free."""

    def steps(scene: Scene, timeout: None) -> Steps:
        r, w = scene.pipe()
        reader = scene.enter_context(open(r, "rb", closefd=False))
        yield partial(getattr(reader, method), *{"read": (4,), "read1": (4,), "readinto": (bytearray(4),)}.get(method, ()))
        os.write(w, b"one\ntwo\n")
        assert in_thread(reader.readline) == b"one\n"
        other = Worker(partial(reader.read, 8))
        parked(other, *READ)
        os.write(w, b"more")
        assert other.value() == b"two\nmore"

    Case(steps, READ, None).run()


def test_text_reader_goes_on(quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        r, w = scene.pipe()
        reader = scene.enter_context(open(r, encoding="utf-8", closefd=False))
        yield reader.readline
        os.write(w, "Grüße\nline\n".encode())
        scene.close_descriptor(w)
        assert list(reader) == ["Grüße\n", "line\n"]

    Case(steps, READ, None).run()


# Writes to a full pipe.
WRITES: dict[str, Callable[[int, bytes], Callable[[], Any]]] = {
    "os.write": lambda w, data: partial(os.write, w, data),
    "os.writev": lambda w, data: partial(os.writev, w, [data, data]),
    "os.pwritev": lambda w, data: partial(os.pwritev, w, [data, data], -1),
    "FileIO.write": lambda w, data: partial(io.FileIO(w, "wb", closefd=False).write, data),
    "unbuffered": lambda w, data: partial(open(w, "wb", buffering=0, closefd=False).write, data),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_a_full_pipe(name: str, quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        r, w = scene.full_pipe()
        yield WRITES[name](w, b"broken")
        scene.close_descriptor(w)
        with open(r, "rb", closefd=False) as reader:
            assert set(reader.read()) == set(b"x")

    Case(steps, ("write", "writev", "pwritev2", "pwritev64v2"), None).run()


def test_buffered_writer_keeps_its_data(quiet: None) -> None:
    """A flush that was broken before it wrote anything is done by the next one, once."""

    def steps(scene: Scene, timeout: None) -> Steps:
        r, w = scene.full_pipe()
        writer = open(w, "wb", closefd=False)
        writer.write(b"kept")
        yield writer.flush
        rest = Worker(open(r, "rb", closefd=False).read)
        writer.close()
        scene.close_descriptor(w)
        data = rest.value()
        assert data.rstrip(b"kept").strip(b"x") == b""
        assert data.endswith(b"xkept")

    Case(steps, ("write",), None).run()


OPENS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "os.open": lambda path: partial(os.open, path, os.O_RDONLY),
    "os.open-dir_fd": lambda path: partial(os.open, path, os.O_RDONLY, dir_fd=os.open("/", os.O_RDONLY)),
    "os.open-write": lambda path: partial(os.open, path, os.O_WRONLY),
    "open": lambda path: partial(open, path),
    "open-write": lambda path: partial(open, path, "wb"),
    "io.open": lambda path: partial(io.open, path, "rb", 0),
    "Path.open": lambda path: pathlib.Path(path).open,
    "Path.read_text": lambda path: pathlib.Path(path).read_text,
    "os.fdopen": lambda path: lambda: os.fdopen(os.open(path, os.O_RDONLY)),
}


def is_open(path: str) -> bool:
    """Whether a descriptor of this process leads there; those of others may come and go meanwhile."""
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}") == path:
                return True
    return False


@pytest.mark.parametrize("name", OPENS)
def test_opening_a_fifo(name: str, quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        path = scene.fifo()
        call = OPENS[name](path)
        yield call
        assert not is_open(path)
        reader = Worker(pathlib.Path(path).read_bytes)
        parked(reader, *OPEN)
        pathlib.Path(path).write_bytes(b"through the FIFO")
        assert reader.value() == b"through the FIFO"

    Case(steps, OPEN, None).run()


LOCKS: dict[str, tuple[Callable[[int], Any], tuple[str, ...]]] = {
    "flock": (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), ("flock",)),
    "fcntl.lockf": (lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), ("fcntl", "fcntl64")),
    "fcntl.fcntl": (lambda fd: fcntl.fcntl(fd, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)), ("fcntl", "fcntl64")),
    "os.lockf": (lambda fd: os.lockf(fd, os.F_LOCK, 0), ("lockf", "lockf64", "fcntl", "fcntl64")),
}

HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", LOCKS)
def test_locking_a_file(name: str, quiet: None) -> None:
    lock, calls = LOCKS[name]

    def steps(scene: Scene, timeout: None) -> Steps:
        path = scene.file()
        kind = "flock" if name == "flock" else "lockf"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        holder = scene.child(sys.executable, "-c", HOLDER, path, kind, **pipes)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        file = scene.enter_context(open(path, "r+b"))
        other = scene.enter_context(open(path, "r+b"))
        with pytest.raises(BlockingIOError):
            getattr(fcntl, kind)(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial(lock, file.fileno())
        with pytest.raises(BlockingIOError):
            getattr(fcntl, kind)(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.communicate()
        in_thread(partial(lock, other.fileno()))

    Case(steps, calls, None).run()


@cases("fcntl", "fcntl64", timeouts=(None,), marks=lacks(fcntl, "F_OFD_SETLKW"))
def open_file_description_lock(scene: Scene, timeout: None) -> Steps:
    path = scene.file()
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    first = scene.enter_context(open(path, "r+b"))
    second = scene.enter_context(open(path, "r+b"))
    fcntl.fcntl(first, fcntl.F_OFD_SETLKW, request)
    yield partial(fcntl.fcntl, second, fcntl.F_OFD_SETLKW, request)
    first.close()
    fcntl.fcntl(second, fcntl.F_OFD_SETLKW, request)


@cases("sendfile", "sendfile64", timeouts=(None,))
def sendfile(scene: Scene, timeout: None) -> Steps:
    a, b, sent = scene.full_socket()
    file = scene.enter_context(open(scene.file(b"y" * 100), "rb"))
    yield partial(os.sendfile, a.fileno(), file.fileno(), 0, 100)
    a.shutdown(socket.SHUT_WR)
    received = b.makefile("rb").read()
    assert received == b"x" * sent


@cases("splice", timeouts=(None,), marks=lacks(os, "splice"))
def splice(scene: Scene, timeout: None) -> Steps:
    r, w = scene.pipe()
    r2, w2 = scene.pipe()
    yield partial(os.splice, r, w2, 100)
    os.write(w, b"spliced")
    assert os.splice(r, w2, 100) == 7
    assert os.read(r2, 100) == b"spliced"


@cases("write", "eventfd_write", timeouts=(None,), marks=lacks(os, "eventfd"))
def eventfd_write(scene: Scene, timeout: None) -> Steps:
    fd = os.eventfd(0)
    scene.callback(os.close, fd)
    os.eventfd_write(fd, 2**64 - 2)
    yield partial(os.eventfd_write, fd, 3)
    assert os.eventfd_read(fd) == 2**64 - 2
    os.eventfd_write(fd, 3)
    assert os.eventfd_read(fd) == 3


@cases("read", "eventfd_read", timeouts=(None,), marks=lacks(os, "eventfd"))
def eventfd_read(scene: Scene, timeout: None) -> Steps:
    fd = os.eventfd(0)
    scene.callback(os.close, fd)
    yield partial(os.eventfd_read, fd)
    os.eventfd_write(fd, 3)
    assert os.eventfd_read(fd) == 3


@pytest.mark.parametrize("case", cases.params)
def test_broken(case: Case, quiet: None) -> None:
    case.run()
