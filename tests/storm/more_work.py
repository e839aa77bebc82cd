"""More kinds of work for a storm: calls that wait on both sides, and what consists of several threads or processes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from interruptible_threading import ThreadInterrupted, critical_section, deliver_on_blocking, uninterruptible
from stress_support import GUARD
from work import SIZE, Semaphores, Tokens, Work, briefly

F_SETPIPE_SZ = 1031  # named by fcntl from Python 3.10 on


class FullPipes(Tokens):
    """A pipe that is full with a few tokens. Who may wait for ever writes and reads at its ends; the others do so at ends
    that do not block, and may have waited before by select, poll or epoll."""

    BYTES = 1024

    def __init__(self) -> None:
        super().__init__()
        self.ends = os.pipe()
        fcntl.fcntl(self.ends[1], F_SETPIPE_SZ, 4096)
        flags = (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK)
        # Not by dup(), which would make the others not block either.
        self.quick = [os.open(f"/proc/self/fd/{fd}", flag) for fd, flag in zip(self.ends, flags)]
        self.epoll = select.epoll()
        self.epoll.register(self.quick[0], select.EPOLLIN)

    def do(self, dice: Random, endless: bool) -> None:
        ends = self.ends if endless else self.quick
        with deliver_on_blocking(), suppress(BlockingIOError):
            if dice.random() < 0.5:
                number = next(self.numbers)
                os.write(ends[1], number.to_bytes(self.BYTES, "big"))
                self.put.append(number)
            else:
                if not endless:
                    self.wait(dice)
                self.got.append(int.from_bytes(os.read(ends[0], self.BYTES), "big"))

    def wait(self, dice: Random) -> None:
        how = dice.randrange(3)
        timeout = briefly(dice, False)
        if how == 0:
            select.select([self.quick[0]], [], [], timeout)
        elif how == 1:
            poll = select.poll()
            poll.register(self.quick[0], select.POLLIN)
            poll.poll(timeout * 1000)
        else:
            self.epoll.poll(timeout)

    def left(self) -> list[int]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(int.from_bytes(os.read(self.quick[0], self.BYTES), "big"))
        return found

    def close(self) -> None:
        self.epoll.close()
        for fd in (*self.ends, *self.quick):
            os.close(fd)


class Connections(Tokens):
    """Connections, each with one token. There are two listeners, since a time-out belongs to the socket and not to the
    call: at the one without, only those accept who may wait for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.listeners = [self.listener(name, timeout) for name, timeout in (("timed", 0.01), ("endless", None))]
        self.unread: deque[socket.socket] = deque()

    def listener(self, name: str, timeout: float | None) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(Path(self.folder.name, name)))
        listener.listen(2)
        listener.settimeout(timeout)
        return listener

    def do(self, dice: Random, endless: bool) -> None:
        with deliver_on_blocking(), suppress(socket.timeout, BlockingIOError):
            chosen = self.listeners[dice.randrange(2)]
            if dice.random() < 0.5:
                self.connect(chosen, endless)
            elif endless or chosen is self.listeners[0]:
                sock, _ = chosen.accept()
                self.unread.append(sock)
            self.read()

    def connect(self, listener: socket.socket, endless: bool) -> None:
        with socket.socket(listener.family) as sock:
            sock.settimeout(None if endless else 0.01)
            sock.connect(listener.getsockname())
            number = next(self.numbers)
            sock.sendall(number.to_bytes(SIZE, "big"))
            self.put.append(number)

    def read(self) -> None:
        """Whoever has connected sends or closes without any further wait."""
        with critical_section(), suppress(IndexError), self.unread.popleft() as sock:
            data = sock.recv(SIZE)
            if data:
                self.got.append(int.from_bytes(data, "big"))

    def left(self) -> list[int]:
        before = len(self.got)
        for listener in self.listeners:
            listener.settimeout(0)
            with suppress(BlockingIOError):
                while True:
                    sock, _ = listener.accept()
                    sock.settimeout(None)
                    self.unread.append(sock)
        while self.unread:
            self.read()
        found = self.got[before:]
        del self.got[before:]
        return found

    def close(self) -> None:
        for sock in (*self.listeners, *self.unread):
            sock.close()
        self.folder.cleanup()


class TcpConnections(Connections):
    """The same, where connecting takes several packets."""

    weight = 2

    def listener(self, name: str, timeout: float | None) -> socket.socket:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        listener.settimeout(timeout)
        return listener

    def left(self) -> list[int]:
        """A connection that finds the queue of the listener full is made for its client, who sends and closes, but for
        the listener only when the kernel tries again, seconds later."""
        found = super().left()
        missing = len(self.put) - len(self.got)
        end = time.monotonic() + GUARD
        while len(found) < missing and time.monotonic() < end:
            time.sleep(0.01)
            found += super().left()
        return found


class Threads(Work):
    """Threads that are started and joined. An interrupted join() takes none for ended that runs."""

    weight = 2

    def __init__(self) -> None:
        self.numbers = count()
        self.started: list[threading.Thread] = []
        self.finished: list[int] = []

    def do(self, dice: Random, endless: bool) -> None:
        number, pause = next(self.numbers), dice.random() * 0.003

        def child() -> None:
            time.sleep(pause)
            self.finished.append(number)

        thread = threading.Thread(target=child)
        with critical_section():
            thread.start()
            self.started.append(thread)
        if dice.random() < 0.7:
            thread.join()
            assert number in self.finished, "joined before its end"
        else:
            thread.join(pause)

    def check(self) -> None:
        for thread in self.started:
            thread.join()
        assert len(self.finished) == len(set(self.finished)) == len(self.started), "threads that did not run once"


class Futures(Work):
    """Tasks of an executor: each is run once, whoever waits for it and is interrupted."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(3)
        self.futures: list[Future[int]] = []
        self.ran: list[int] = []

    def task(self, number: int, pause: float) -> int:
        time.sleep(pause)
        self.ran.append(number)
        return number * number

    def do(self, dice: Random, endless: bool) -> None:
        number, pause = dice.randrange(1 << 40), dice.random() * 0.001
        with critical_section():
            future = self.executor.submit(self.task, number, pause)
            self.futures.append(future)
        with suppress(FutureTimeout):
            assert future.result(briefly(dice, endless)) == number * number, "another task's result"

    def check(self) -> None:
        results = sorted(future.result() for future in self.futures)
        assert results == sorted(number * number for number in self.ran), "tasks that did not run once"

    def close(self) -> None:
        self.executor.shutdown()


class Conversations(Work):
    """Children that answer through pipes. Everything is given back by the thread that made it."""

    weight = 1

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.statuses: list[int] = []

    def do(self, dice: Random, endless: bool) -> None:
        text = b"%d\n" % dice.randrange(1 << 40) * dice.choice([1, 20000])
        with deliver_on_blocking():
            with critical_section():
                child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self.started.append(child)
            try:
                answer, _ = child.communicate(text)
                assert answer == text, "another answer"
            finally:
                with critical_section():
                    child.kill()
                    self.statuses.append(child.wait())
                    for stream in (child.stdin, child.stdout):
                        if stream is not None:
                            with suppress(BrokenPipeError):  # what was not written is not flushed either
                                stream.close()

    def check(self) -> None:
        assert len(self.statuses) == len(self.started), "children that nobody has waited for"
        assert set(self.statuses) <= {0, -9}, f"somebody else has reaped a child: {set(self.statuses)}"


class ProcessSemaphores(Semaphores):
    """multiprocessing's."""

    weight = 2

    def __init__(self) -> None:
        super().__init__()
        self.semaphore: Any = multiprocessing.get_context("fork").BoundedSemaphore(self.PERMITS)

    def permits(self) -> int:
        return int(self.semaphore.get_value())


class Lookups(Work):
    """Names of hosts."""

    weight = 1

    def __init__(self) -> None:
        self.answer = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)

    def do(self, dice: Random, endless: bool) -> None:
        assert socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM) == self.answer, "another answer"


class Uncut(Work):
    """Python code that must not be cut: no wait is in it, and all of it is said to wait for waits."""

    def __init__(self) -> None:
        self.cuts: list[str] = []

    def do(self, dice: Random, endless: bool) -> None:
        turns = dice.randrange(500)
        if dice.random() < 0.5:
            with deliver_on_blocking():
                self.guarded(turns)
        else:
            self.guarded_by_name(turns)

    @uninterruptible
    def guarded_by_name(self, turns: int) -> None:
        self.guarded(turns)

    def guarded(self, turns: int) -> None:
        try:
            total = 0
            for number in range(turns):
                total += abs(self.step(number))
        except ThreadInterrupted as error:
            self.cuts.append(repr(error))
            raise

    def step(self, number: int) -> int:
        return sum(each for each in (number, 1))

    def check(self) -> None:
        assert not self.cuts, f"cut {len(self.cuts)} times"


MORE_KINDS: list[type[Work]] = [
    FullPipes, Connections, TcpConnections, Threads, Futures, Conversations, ProcessSemaphores, Lookups, Uncut,
]  # fmt: skip
