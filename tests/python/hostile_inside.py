"""Threads that wait in every kind of call, for the scripts of test_hostile*.py. Imported by the program under test itself."""

from __future__ import annotations

import faulthandler
import gc
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple, Optional

from interruptible_threading import ThreadInterrupted, _core, deliver_on_blocking, install_patches, interrupt, status

install_patches()

#: Seconds after which the program gives up. Never a bound on how fast something has to be.
GUARD = 60.0
faulthandler.dump_traceback_later(4 * GUARD, exit=True)
LONG = 3000.0

SEM = ("sem_timedwait", "sem_clockwait")
POLL = ("poll", "__poll_chk", "ppoll", "__ppoll_chk")


def until(condition: Callable[[], Any], what: Callable[[], Any]) -> None:
    """Wait for it, without a bound that a slow machine could miss."""
    end = time.monotonic() + GUARD
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"in vain: {what()}")
        time.sleep(0.0005)


class Kind(NamedTuple):
    """A call that waits, the functions of libc it waits in, and how what it waits for comes about."""

    call: Callable[[], Any]
    libc: tuple[str, ...]
    give: Optional[Callable[[threading.Thread], Any]] = None
    want: Any = None
    fds: tuple[int, ...] = ()


def sleep() -> Kind:
    return Kind(lambda: time.sleep(LONG), ("clock_nanosleep", "nanosleep", "select"))


def lock() -> Kind:
    held = threading.Lock()
    held.acquire()
    return Kind(held.acquire, SEM, lambda thread: held.release(), True)


def lock_timeout() -> Kind:
    held = threading.Lock()
    held.acquire()
    return Kind(lambda: held.acquire(timeout=LONG), SEM, lambda thread: held.release(), True)


def queue_get() -> Kind:
    items: queue.Queue[str] = queue.Queue()
    return Kind(items.get, SEM, lambda thread: items.put("item"), "item")


def simple_queue_get() -> Kind:
    items: queue.SimpleQueue[str] = queue.SimpleQueue()
    return Kind(items.get, SEM, lambda thread: items.put("item"), "item")


def recv() -> Kind:
    a, b = socket.socketpair()
    return Kind(lambda: a.recv(9), ("recv", "__recv_chk"), lambda thread: b.send(b"recv"), b"recv", (a.fileno(), b.fileno()))


def recv_timeout() -> Kind:
    a, b = socket.socketpair()
    a.settimeout(LONG)
    return Kind(lambda: a.recv(9), POLL, lambda thread: b.send(b"recv"), b"recv", (a.fileno(), b.fileno()))


def read() -> Kind:
    r, w = os.pipe()
    return Kind(lambda: os.read(r, 9), ("read", "__read_chk"), lambda thread: os.write(w, b"read"), b"read", (r, w))


def select_() -> Kind:
    r, w = os.pipe()
    return Kind(lambda: select.select([r], [], [], LONG), ("select",), lambda thread: os.write(w, b"x"), ([r], [], []), (r, w))


def poll() -> Kind:
    r, w = os.pipe()
    poller = select.poll()
    poller.register(r, select.POLLIN)
    return Kind(poller.poll, POLL, lambda thread: os.write(w, b"x"), [(r, select.POLLIN)], (r, w))


def epoll() -> Kind:
    r, w = os.pipe()
    poller = select.epoll()
    poller.register(r, select.EPOLLIN)
    calls = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
    return Kind(poller.poll, calls, lambda thread: os.write(w, b"x"), [(r, select.EPOLLIN)], (r, w, poller.fileno()))


def waitpid() -> Kind:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.returncode = 0  # nobody but the call reaps it
    end = child.stdin.close
    return Kind(lambda: os.waitpid(child.pid, 0), ("waitpid",), lambda thread: end(), (child.pid, 0), (child.stdin.fileno(),))


def sigwait() -> Kind:
    def call() -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        return signal.sigwait({signal.SIGUSR1})

    return Kind(call, ("sigwait",), lambda thread: signal.pthread_kill(thread.ident or 0, signal.SIGUSR1), signal.SIGUSR1)


KINDS: tuple[Callable[[], Kind], ...] = (
    sleep, lock, lock_timeout, queue_get, simple_queue_get, recv, recv_timeout, read, select_, poll, epoll, waitpid, sigwait,
)  # fmt: skip


class Waiter(threading.Thread):
    """Waits, notes what came of it, and waits again, until what it waits for has come."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(daemon=True)
        self.kind = kind
        self.got: list[Any] = []
        self.over = False
        self.start()

    def run(self) -> None:
        with deliver_on_blocking():
            while not self.over:
                try:
                    self.got.append(self.kind.call())
                except ThreadInterrupted as error:
                    self.got.append(error)

    def parked(self) -> bool:
        info = _core.park_info(self.ident or 0)
        return bool(info and info["parked"] and info["call"] in self.kind.libc)

    def settle(self) -> None:
        until(self.parked, lambda: f"{self.kind.libc}: {_core.park_info(self.ident or 0)}, has got {self.got}")

    def __repr__(self) -> str:
        return f"{self.kind.libc[0]} {self.kind.call}"


class Crowd:
    """One waiter of each kind."""

    def __init__(self, kinds: Iterable[Callable[[], Kind]] = KINDS) -> None:
        self.waiters = [Waiter(kind()) for kind in kinds]
        self.settle()

    def settle(self) -> None:
        for waiter in self.waiters:
            waiter.settle()

    def fds(self) -> set[int]:
        """What they wait on: a program that closed those would have itself to blame."""
        return {fd for waiter in self.waiters for fd in waiter.kind.fds}

    def interrupt(self) -> None:
        """Each raises the one it was sent, from the call, and waits again."""
        self.send()
        self.settle()

    def send(self) -> None:
        before = [len(waiter.got) for waiter in self.waiters]
        handles = [interrupt(waiter) for waiter in self.waiters]
        for waiter, handle, count in zip(self.waiters, handles, before):
            until(
                lambda waiter=waiter, count=count: len(waiter.got) > count, lambda waiter=waiter, handle=handle: (waiter, handle.explain())
            )
            got = waiter.got[count]
            assert isinstance(got, ThreadInterrupted), (waiter, got)
            assert got.interrupt_id == handle.id, (waiter, got.interrupt_id, handle.id)
            assert got.__context__ is None
            assert handle.state == "delivered", handle.state

    def finish(self) -> None:
        """Each gets what it waits for; nothing else has ever come out."""
        for waiter in self.waiters:
            waiter.over = True
            if waiter.kind.give is None:
                interrupt(waiter)
            else:
                waiter.kind.give(waiter)
            waiter.join(GUARD)
            assert not waiter.is_alive(), (waiter, _core.park_info(waiter.ident or 0))
            rest = waiter.got if waiter.kind.give is None else waiter.got[:-1]
            assert all(isinstance(got, ThreadInterrupted) for got in rest), (waiter, waiter.got)
            if waiter.kind.give is not None:
                assert waiter.got[-1] == waiter.kind.want, (waiter, waiter.got[-1])


def works(kinds: Iterable[Callable[[], Kind]] = KINDS) -> None:
    """Threads that start now can be interrupted, and get what they wait for."""
    crowd = Crowd(kinds)
    crowd.interrupt()
    crowd.interrupt()
    crowd.finish()
    del crowd
    gc.collect()  # exceptions hold their threads: a socket that is found later would close a number that is another's by then


def end() -> None:
    """All is well."""
    found = status()
    assert found["problems"] == [], found
    print("end")
