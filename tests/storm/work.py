"""Kinds of work that threads do in a storm, each with its own books.

``do()`` may be interrupted wherever the library allows it. Where a call and its bookkeeping belong together, they stand in
``deliver_on_blocking()`` or ``critical_section()``, as a program has to write them (docs/guarantees.md). Waits are short,
but for ``endless`` ones: only an interrupt ends those. ``check()`` comes when all threads have ended.

A new kind of work is a class here or in more_work.py, and its name in the list at the end.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import queue
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from interruptible_threading import critical_section, deliver_on_blocking

FOREVER = 3000.0


class Work:
    """One shared thing that all threads work with."""

    #: How often it is chosen, beside the others.
    weight = 4

    def do(self, dice: random.Random, endless: bool) -> None:
        """Once. ``endless``: it may wait for ever."""
        raise NotImplementedError

    def check(self) -> None:
        """What was put in came out, once; nothing is held."""

    def close(self) -> None:
        """Give back what it has opened."""


def briefly(dice: random.Random, endless: bool) -> float:
    """A time-out in seconds."""
    return FOREVER if endless and dice.random() < 0.2 else dice.random() * 0.01


class Locks(Work):
    """A lock and an RLock: one owner at a time, and none in the end."""

    weight = 8

    def __init__(self) -> None:
        self.locks: list[Any] = [threading.Lock(), threading.RLock()]
        self.owners: list[Any] = [None, None]

    def do(self, dice: random.Random, endless: bool) -> None:
        at = dice.randrange(2)
        lock = self.locks[at]
        if dice.random() < 0.3:
            with lock:
                for _ in range(dice.randrange(30)):
                    pass
            return
        with deliver_on_blocking():
            if not lock.acquire(timeout=briefly(dice, endless)):
                return
            try:
                assert self.owners[at] is None, "two owners"
                self.owners[at] = threading.current_thread()
                if at == 1 and dice.random() < 0.5:
                    with lock:
                        time.sleep(0)
                time.sleep(dice.random() * 0.001)
                assert self.owners[at] is threading.current_thread(), "another owner"
            finally:
                self.owners[at] = None
                lock.release()

    def check(self) -> None:
        for lock in self.locks:
            assert lock.acquire(blocking=False), f"held: {lock}"
            lock.release()


class Conditions(Work):
    """Waiting and notifying; nobody is left in the list of those who wait."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.event = threading.Event()

    def do(self, dice: random.Random, endless: bool) -> None:
        if dice.random() < 0.3:
            if self.event.wait(briefly(dice, endless)):
                self.event.clear()
            else:
                self.event.set()
            return
        with self.condition:
            if dice.random() < 0.5:
                self.condition.wait(briefly(dice, endless))
            else:
                self.condition.notify()

    def check(self) -> None:
        assert self.condition.acquire(blocking=False), "the condition's lock is held"
        self.condition.release()
        inside: Any = self.event
        condition: Any
        for condition in (self.condition, inside._cond):
            assert not condition._waiters, f"{len(condition._waiters)} are taken for waiting"


class Semaphores(Work):
    """As many permits in the end as in the beginning, and never more taken."""

    PERMITS = 3

    def __init__(self) -> None:
        self.semaphore: Any = threading.BoundedSemaphore(self.PERMITS)
        self.inside: set[threading.Thread] = set()

    def do(self, dice: random.Random, endless: bool) -> None:
        with deliver_on_blocking():
            if not self.semaphore.acquire(timeout=briefly(dice, endless)):
                return
            try:
                self.inside.add(threading.current_thread())
                assert len(self.inside) <= self.PERMITS, "too many permits"
                time.sleep(dice.random() * 0.001)
            finally:
                self.inside.discard(threading.current_thread())
                self.semaphore.release()

    def permits(self) -> int:
        return int(self.semaphore._value)

    def check(self) -> None:
        assert self.permits() == self.PERMITS, f"{self.permits()} permits"
        assert not self.inside


class Tokens(Work):
    """Numbers that are put in and got out."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.put: list[int] = []
        self.got: list[int] = []

    def left(self) -> list[int]:
        raise NotImplementedError

    def check(self) -> None:
        put, got = Counter(self.put), Counter(self.got + self.left())
        assert put == got, f"{type(self).__name__}: lost {sorted(put - got)}, twice or from nowhere {sorted(got - put)}"


class SimpleQueues(Tokens):
    """The queue written in C."""

    def __init__(self, made: Any = None) -> None:
        super().__init__()
        self.queue: Any = queue.SimpleQueue() if made is None else made

    def do(self, dice: random.Random, endless: bool) -> None:
        number = next(self.numbers)
        with deliver_on_blocking(), suppress(queue.Full, queue.Empty):
            if dice.random() < 0.5:
                self.queue.put(number, timeout=briefly(dice, endless))
                self.put.append(number)
            else:
                self.got.append(self.queue.get(timeout=briefly(dice, endless)))

    def left(self) -> list[int]:
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]


class Queues(SimpleQueues):
    """A bounded queue, where put() waits too."""

    def __init__(self) -> None:
        super().__init__(queue.Queue(5))


SIZE = 8  # bytes of a token: so few are written and read at once, or not at all


class Pipes(Tokens):
    """Bytes in a pipe. Reads block; those who look first are not alone, so that a read may find nothing after all."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = os.pipe()
        os.set_blocking(self.ends[1], False)  # it may be full, and a masked thread cannot be called off

    def do(self, dice: random.Random, endless: bool) -> None:
        with deliver_on_blocking():
            if not endless or dice.random() < 0.6:
                with critical_section(), suppress(BlockingIOError):
                    number = next(self.numbers)
                    os.write(self.ends[1], number.to_bytes(SIZE, "big"))
                    self.put.append(number)
            if endless:
                self.got.append(int.from_bytes(os.read(self.ends[0], SIZE), "big"))

    def left(self) -> list[int]:
        os.set_blocking(self.ends[0], False)
        found = []
        try:
            while True:
                found.append(int.from_bytes(os.read(self.ends[0], SIZE), "big"))
        except BlockingIOError:
            return found

    def close(self) -> None:
        for fd in self.ends:
            os.close(fd)


class Sockets(Tokens):
    """Bytes in a socket with a time-out."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(0.01)
        self.theirs.settimeout(0.01)

    def do(self, dice: random.Random, endless: bool) -> None:
        with deliver_on_blocking():
            if dice.random() < 0.5:
                with critical_section(), suppress(socket.timeout):
                    number = next(self.numbers)
                    self.ours.sendall(number.to_bytes(SIZE, "big"))
                    self.put.append(number)
            else:
                try:
                    self.got.append(int.from_bytes(self.theirs.recv(SIZE), "big"))
                except socket.timeout:
                    pass

    def left(self) -> list[int]:
        found = []
        try:
            while True:
                found.append(int.from_bytes(self.theirs.recv(SIZE), "big"))
        except socket.timeout:
            return found

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Processes(Work):
    """Children: every one is reaped, by whoever has it."""

    weight = 1
    STATUS = 7  # 0 is what subprocess makes of a child that it cannot find any more
    SHORT = ["sh", "-c", f"exit {STATUS}"]

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def do(self, dice: random.Random, endless: bool) -> None:
        if dice.random() < 0.5:
            status = subprocess.run(self.SHORT).returncode
            assert status == self.STATUS, f"a child's status is {status}: somebody else has reaped it"
            return
        with critical_section():
            child = subprocess.Popen(["sleep", "3000"] if endless else self.SHORT)
            self.started.append(child)
        try:
            child.wait()
        finally:
            child.kill()

    def check(self) -> None:
        for child in self.started:
            child.kill()  # an interrupt on leaving the critical section came before the `finally`
            status = child.wait()
            assert status in (self.STATUS, -9), f"a child's status is {status}: somebody else has reaped it"


class Files(Work):
    """Open, lock, write, close; no lock is left, and what was written is whole, and there as often as was counted."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.paths = [Path(self.folder.name, name) for name in ("counted", "anywhere")]
        self.written: list[int] = []

    def do(self, dice: random.Random, endless: bool) -> None:
        if dice.random() < 0.5:
            self.write(self.paths[1], dice)
            return
        with deliver_on_blocking():
            self.written.append(self.write(self.paths[0], dice))

    def write(self, path: Path, dice: random.Random) -> int:
        with open(path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(dice.random() * 0.0005)
            return file.write(b"line\n")

    def check(self) -> None:
        for path in self.paths:
            with open(path, "ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.seek(0)
                content = file.read()
            assert content == b"line\n" * (len(content) // 5), f"{path}: half a line"
        lines, counted = self.paths[0].stat().st_size, sum(self.written)
        assert lines == counted, f"{lines} bytes written, {counted} counted"

    def close(self) -> None:
        self.folder.cleanup()


class Sleeps(Work):
    """Just that, and Python code."""

    def do(self, dice: random.Random, endless: bool) -> None:
        if dice.random() < 0.5:
            time.sleep(briefly(dice, endless))
        else:
            for _ in range(dice.randrange(3000)):
                pass


KINDS: list[type[Work]] = [
    Locks, Conditions, Semaphores, Queues, SimpleQueues, Pipes, Sockets, Processes, Files, Sleeps,
]  # fmt: skip
