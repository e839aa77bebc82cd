"""Threads that wait in many calls of CPython's, for the tests of calls that are bound and unbound meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from interruptible_threading import _core, status
from stress_support import Victim, until

LONG = 3000.0

shim = ctypes.CDLL(status()["library"])


class Kind:
    """A call that waits, and how what it waits for comes about."""

    def __init__(self, call: Callable[[], Any], give: Optional[Callable[[Victim], Any]] = None) -> None:
        self.call = call
        self.give = give
        #: Of what was given, everything comes out in the end. None: nobody counts.
        self.given = 0
        self.got = 0
        self.left: Callable[[], int] | None = None


Make = Callable[[contextlib.ExitStack, Path], Kind]
MAKERS: list[Any] = []


def kind(make: Make) -> Make:
    MAKERS.append(pytest.param(make, id=make.__name__.rstrip("_")))
    return make


def close_later(stack: contextlib.ExitStack, *fds: int) -> None:
    for fd in fds:
        stack.callback(os.close, fd)


def a_pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    r, w = os.pipe()
    close_later(stack, r, w)
    return r, w


def readable(fd: int) -> int:
    found = 0
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 1):
            found += 1
    return found


@kind
def sleep(stack: contextlib.ExitStack, folder: Path) -> Kind:
    return Kind(lambda: time.sleep(LONG))


@kind
def lock_with_a_time_out(stack: contextlib.ExitStack, folder: Path) -> Kind:
    held = threading.Lock()
    held.acquire()
    return Kind(lambda: held.acquire(timeout=LONG))


@kind
def lock_in_a_with(stack: contextlib.ExitStack, folder: Path) -> Kind:
    held = threading.RLock()
    held.acquire()

    def call() -> None:
        with held:
            raise AssertionError("somebody else holds it")

    return Kind(call)


@kind
def event(stack: contextlib.ExitStack, folder: Path) -> Kind:
    return Kind(threading.Event().wait)


@kind
def queue_get(stack: contextlib.ExitStack, folder: Path) -> Kind:
    items: queue.Queue[int] = queue.Queue()
    made = Kind(items.get, lambda victim: items.put(1))
    made.left = items.qsize
    return made


@kind
def simple_queue_get(stack: contextlib.ExitStack, folder: Path) -> Kind:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    made = Kind(items.get, lambda victim: items.put(1))
    made.left = items.qsize
    return made


@kind
def select_(stack: contextlib.ExitStack, folder: Path) -> Kind:
    r, _ = a_pipe(stack)
    return Kind(lambda: select.select([r], [], [], LONG))


@kind
def poll(stack: contextlib.ExitStack, folder: Path) -> Kind:
    r, _ = a_pipe(stack)
    poller = select.poll()
    poller.register(r, select.POLLIN)
    return Kind(poller.poll)


@kind
def epoll(stack: contextlib.ExitStack, folder: Path) -> Kind:
    r, _ = a_pipe(stack)
    poller = stack.enter_context(select.epoll())
    poller.register(r, select.POLLIN)
    return Kind(poller.poll)


@kind
def recv(stack: contextlib.ExitStack, folder: Path) -> Kind:
    a, b = map(stack.enter_context, socket.socketpair())
    made = Kind(lambda: a.recv(1), lambda victim: b.send(b"x"))
    made.left = lambda: readable(a.fileno())
    return made


@kind
def recv_with_a_time_out(stack: contextlib.ExitStack, folder: Path) -> Kind:
    a, b = map(stack.enter_context, socket.socketpair())
    a.settimeout(LONG)
    made = Kind(lambda: a.recv(1), lambda victim: b.send(b"x"))
    made.left = lambda: readable(a.fileno())
    return made


@kind
def read_of_a_pipe(stack: contextlib.ExitStack, folder: Path) -> Kind:
    r, w = a_pipe(stack)
    made = Kind(lambda: os.read(r, 1), lambda victim: os.write(w, b"x"))
    made.left = lambda: readable(r)
    return made


@kind
def read_of_a_file(stack: contextlib.ExitStack, folder: Path) -> Kind:
    r, w = a_pipe(stack)
    file = open(r, "rb", buffering=0, closefd=False)
    made = Kind(lambda: file.read(1), lambda victim: os.write(w, b"x"))
    made.left = lambda: readable(r)
    return made


@kind
def accept(stack: contextlib.ExitStack, folder: Path) -> Kind:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    server.settimeout(None)
    return Kind(server.accept)


@kind
def connect(stack: contextlib.ExitStack, folder: Path) -> Kind:
    """To a local socket whose queue is full: the kernel forgets one that is interrupted, and it looks connected."""
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    path = str(folder / "full")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server.bind(path)
    server.listen(0)
    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)

    def call() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            raise AssertionError("connected, it said")

    return Kind(call)


@kind
def waitpid(stack: contextlib.ExitStack, folder: Path) -> Kind:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    stack.callback(child.communicate)
    return Kind(lambda: os.waitpid(child.pid, 0))


@kind
def sigtimedwait(stack: contextlib.ExitStack, folder: Path) -> Kind:
    def call() -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        return signal.sigtimedwait({signal.SIGUSR1}, LONG)

    return Kind(call)


@kind
def pause(stack: contextlib.ExitStack, folder: Path) -> Kind:
    """Whatever the signal is, it returns; and when an interrupt is taken back that it was woken for already."""
    return Kind(signal.pause)


@kind
def flock(stack: contextlib.ExitStack, folder: Path) -> Kind:
    one, other = (stack.enter_context(open(folder / "locked", "wb")) for _ in range(2))
    fcntl.flock(one, fcntl.LOCK_EX)
    return Kind(lambda: fcntl.flock(other, fcntl.LOCK_EX))


@kind
def lockf(stack: contextlib.ExitStack, folder: Path) -> Kind:
    """CPython does not make this one again. The lock is another process's."""
    path = folder / "of_another"
    script = f"import os, sys; f = open({str(path)!r}, 'wb'); os.lockf(f.fileno(), os.F_LOCK, 0); print(flush=True); sys.stdin.read()"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = stack.enter_context(subprocess.Popen([sys.executable, "-I", "-c", script], **pipes))
    stack.callback(child.communicate)
    assert child.stdout is not None and child.stdout.readline() == b"\n"
    file = stack.enter_context(open(path, "wb"))
    return Kind(lambda: os.lockf(file.fileno(), os.F_LOCK, 0))


if hasattr(os, "eventfd_read"):

    @kind
    def eventfd_read(stack: contextlib.ExitStack, folder: Path) -> Kind:
        """Nor this one."""
        fd = os.eventfd(0, os.EFD_SEMAPHORE)
        close_later(stack, fd)
        made = Kind(lambda: os.eventfd_read(fd), lambda victim: os.eventfd_write(fd, 1))

        def left() -> int:
            os.set_blocking(fd, False)
            found = 0
            with contextlib.suppress(BlockingIOError):
                while os.eventfd_read(fd):
                    found += 1
            return found

        made.left = left
        return made


class Gate:
    """Whether calls may begin. One that begins while the patches are not installed is nobody's to end."""

    def __init__(self) -> None:
        self.closed = False
        self.turn = 0
        self.seen: dict[Victim, int] = {}

    def pass_(self, victim: Victim) -> None:
        while self.closed:
            self.seen[victim] = self.turn
            time.sleep(0.0005)

    def close(self, victims: list[Victim]) -> None:
        """Until each victim is at the gate, or in a wrapper."""
        self.turn += 1
        self.closed = True
        for victim in victims:
            until(lambda: victim.check() or self.seen.get(victim) == self.turn or where(victim)["exact"], victim.where)


def where(victim: Victim) -> dict[str, Any]:
    return _core.park_info(victim.ident or 0) or {"exact": False, "parked": False}


def waits_unseen(victim: Victim) -> bool:
    """In an exact call and in the kernel, not parked. (Preloaded: parked.)"""
    info = where(victim)
    if info["parked"]:
        return bool(status()["preloaded"])
    with open(f"/proc/self/task/{victim.native_id}/syscall") as file:
        return bool(info["exact"]) and file.read(7) != "running"


def begin(made: Kind, gate: Gate | None = None) -> Victim:
    def body(victim: Victim) -> None:
        if gate is not None:
            gate.pass_(victim)
        made.call()
        made.got += 1

    victim = Victim(body)
    until(lambda: victim.begun, "it begins")
    return victim
