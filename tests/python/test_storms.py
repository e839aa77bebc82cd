"""The races of test_race.py again, under weather from outside: interrupts from threads that never hold the GIL, and
signals that hit the parked workers while interrupts come. No effect is lost and nothing false is seen.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, NamedTuple

import pytest
import test_race
from native_support import NativeStorm
from stress_support import Books, Victim, count, rng, spin, storm, switch_interval, until

LONG = 1000.0
INTERVALS = pytest.mark.parametrize("interval", [None, 1e-5], ids=["switching", "switching-often"])


class Job(NamedTuple):
    """What the victims do. ``feed()`` gives them something, ``settle()`` says, when they have ended, whether all of it
    has arrived."""

    body: Callable[[Victim], None]
    feed: Callable[[], None]
    settle: Callable[[], None]
    victims: int = 1


Make = Callable[[ExitStack], Job]


def pipe(reader: Any) -> Make:
    def make(stack: ExitStack) -> Job:
        r, w = os.pipe()
        stack.callback(os.close, r)
        source = test_race.Source(16)
        body, got = reader(r)

        def feed() -> None:
            data = source.next()
            if reader is test_race.read_line:
                source.sent[-16:] = data = data.replace(b"\n", b".")[:-1] + b"\n"
            os.write(w, data)

        def settle() -> None:
            os.close(w)
            have = bytes(got())
            assert have + b"".join(iter(lambda: os.read(r, 65536), b"")) == bytes(source.sent)

        return Job(body, feed, settle)

    return make


def sock(reader: Any, timeout: float | None) -> Make:
    def make(stack: ExitStack) -> Job:
        a, b = map(stack.enter_context, socket.socketpair())
        a.settimeout(timeout)
        source = test_race.Source(7)
        body, got = reader(a)

        def settle() -> None:
            b.close()
            a.settimeout(None)
            assert bytes(got()) + b"".join(iter(lambda: a.recv(65536), b"")) == bytes(source.sent)

        return Job(body, lambda: b.sendall(source.next()), settle)

    return make


def items(new: Callable[[], Any], *args: Any) -> Make:
    def make(stack: ExitStack) -> Job:
        q = new()
        got: list[int] = []
        sent = 0

        def body(victim: Victim) -> None:
            while not victim.stopping:
                got.append(q.get(*args))

        def feed() -> None:
            nonlocal sent
            q.put(sent)
            sent += 1

        def settle() -> None:
            assert [*got, *(q.get() for _ in range(q.qsize()))] == list(range(sent))

        return Job(body, feed, settle)

    return make


def lock(new: Callable[[], Any], *args: Any) -> Make:
    """Two threads contend for it, with whoever feeds them."""

    def make(stack: ExitStack) -> Job:
        lock = new()
        inside: set[int] = set()

        def visit() -> None:
            inside.add(threading.get_ident())
            try:
                spin(20)
                assert len(inside) == 1
            finally:
                inside.discard(threading.get_ident())

        def body(victim: Victim) -> None:
            while not victim.stopping:
                if not args:
                    with lock:
                        visit()
                    continue
                assert lock.acquire(*args), "a false time-out"
                try:
                    visit()
                finally:
                    lock.release()

        def feed() -> None:
            with lock:
                spin(100)

        def settle() -> None:
            assert not inside
            assert lock.acquire(False)
            lock.release()

        return Job(body, feed, settle, victims=2)

    return make


JOBS: dict[str, Make] = {
    "pipe": pipe(test_race.read_os),
    "pipe-readline": pipe(test_race.read_line),
    "pipe-readv": pipe(test_race.read_into),
    "socket": sock(test_race.recv, None),
    "socket-timeout": sock(test_race.recv, LONG),
    "socket-recv_into": sock(test_race.recv_into, LONG),
    "Queue": items(queue.Queue),
    "Queue-timeout": items(queue.Queue, True, LONG),
    "SimpleQueue": items(queue.SimpleQueue),
    "SimpleQueue-timeout": items(queue.SimpleQueue, True, LONG),
    "Lock": lock(threading.Lock),
    "Lock-timeout": lock(threading.Lock, True, LONG),
    "RLock": lock(threading.RLock),
}
EVERY_JOB = pytest.mark.parametrize("name", JOBS)


def native_interrupts(books: Books) -> list[int | None]:
    """Those that were not sent from Python, taken out of the books."""
    known = {handle.id for handle in books.handles}
    found = []
    for victim in books.victims:
        found += [number for number in victim.caught if number not in known]
        victim.caught = [number for number in victim.caught if number in known]
    return found


@INTERVALS
@EVERY_JOB
def test_interrupts_without_the_gil(name: str, interval: float | None) -> None:
    """itr_interrupt() in a native thread. Each that found none pending is raised once; nothing else is."""
    rounds = count(200)
    with ExitStack() as stack:
        job = JOBS[name](stack)
        victims = [Victim(job.body, name=f"{name}-{i}") for i in range(job.victims)]
        books = Books(*victims)
        random = rng(name, interval)
        for victim in victims:
            until(lambda victim=victim: victim.parked() or victim.rounds, victim.where)
        native = NativeStorm(victims, random)
        try:
            with switch_interval(interval):
                until(lambda: advance(job, victims, random) or native.sent >= rounds, "so many interrupts")
        finally:
            native.stop()
        books.stop()
        raised = native_interrupts(books)
        assert len(set(raised)) == len(raised)
        # When it is over, each may have one in its queue, which is one with what ends it, and one more recorded behind that,
        # which its end discards: C cannot look into the queue, and so coalesces only with what has not got there.
        assert native.sent - 2 * len(victims) <= len(raised) <= native.sent
        assert native.refused == 0
        assert raised
        books.balance()
        job.settle()


def advance(job: Job, victims: list[Victim], random: Any) -> None:
    """A moment of work under the storm."""
    for _ in range(random.randrange(4)):
        job.feed()
        spin(random.randrange(200))
    for victim in victims:
        victim.check()
    time.sleep(random.random() * 2e-4)


@contextmanager
def restarting_signals() -> Iterator[tuple[list[int], int]]:
    """(how often the handler ran, the wake-up descriptor's other end): SIGUSR1 restarts calls, as far as that goes."""
    seen: list[int] = []
    r, w = os.pipe()
    os.set_blocking(r, False)
    os.set_blocking(w, False)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    signal.siginterrupt(signal.SIGUSR1, False)
    wakeup = signal.set_wakeup_fd(w, warn_on_full_buffer=False)
    try:
        yield seen, r
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR1, before)
        os.close(r)
        os.close(w)


def woken(r: int) -> bytes:
    """What the wake-up descriptor has had."""
    try:
        return os.read(r, 1 << 20)
    except BlockingIOError:
        return b""


def under_signals(victims: list[Victim], random: Any, interval: float | None, feed: Callable[[], None]) -> Books:
    """Interrupts and signals, at random moments. Ends the victims."""
    books = Books(*victims)
    for victim in victims:
        until(lambda victim=victim: victim.parked() or victim.rounds, victim.where)
    with restarting_signals() as (seen, r):
        rain = NativeStorm(victims, random, signal=signal.SIGUSR1)
        written = bytearray()

        def feed_and_drain() -> None:
            feed()
            written.extend(woken(r))

        try:
            with switch_interval(interval):
                storm(books, count(150), random, feed=feed_and_drain)
                until(lambda: rain.sent > count(150) // 10 and seen, "signals")
        finally:
            rain.stop()
        written += woken(r)
        assert set(written) == {signal.SIGUSR1}
        assert len(written) <= rain.sent  # while one is pending in a thread, others are one with it
        signal.pthread_kill(victims[0].ident or 0, signal.SIGUSR1)
        last: list[bytes] = []
        until(lambda: last.append(woken(r)) or last[-1], "the byte of one more signal")
        assert set(last[-1]) == {signal.SIGUSR1}
        books.stop()
    assert rain.refused == 0
    assert books.balance() > count(150) // 10
    return books


@INTERVALS
@EVERY_JOB
def test_signals_that_restart_calls(name: str, interval: float | None) -> None:
    """Nothing is lost between SA_RESTART signals with a wake-up descriptor and interrupts."""
    with ExitStack() as stack:
        job = JOBS[name](stack)
        victims = [Victim(job.body, name=f"{name}-{i}") for i in range(job.victims)]
        under_signals(victims, rng(name, interval), interval, job.feed)
        job.settle()


def waits(stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Calls that have nothing to return for as long as any test lasts."""
    a, _ = map(stack.enter_context, socket.socketpair())
    timed, _ = map(stack.enter_context, socket.socketpair())
    timed.settimeout(LONG)
    r, w = os.pipe()
    stack.callback(os.close, r)
    stack.callback(os.close, w)
    poll = select.poll()
    poll.register(r, select.POLLIN)
    epoll = stack.enter_context(select.epoll())
    epoll.register(r, select.EPOLLIN)
    held = threading.Lock()
    held.acquire()
    return {
        "sleep": lambda: time.sleep(LONG),
        "select": lambda: select.select([r], [], [], LONG),
        "select-nothing": lambda: select.select([], [], [], LONG),
        "poll": lambda: poll.poll(LONG * 1000),
        "epoll": lambda: epoll.poll(LONG),
        "recv": lambda: a.recv(1),
        "recv-timeout": lambda: timed.recv(1),
        "read": lambda: os.read(r, 1),
        "lock": held.acquire,
        "lock-timeout": lambda: held.acquire(True, LONG),
        "Event": threading.Event().wait,
        "Event-timeout": lambda: threading.Event().wait(LONG),
        "Queue-timeout": lambda: queue.Queue().get(timeout=LONG),  # type: ignore[var-annotated]
        "SimpleQueue-timeout": lambda: queue.SimpleQueue().get(timeout=LONG),  # type: ignore[var-annotated]
        "join": lambda: threading.main_thread().join(LONG),
        "sigwait": lambda: signal.sigtimedwait([signal.SIGUSR2], LONG),
    }


with ExitStack() as nothing:
    WAITS = list(waits(nothing))


@pytest.mark.parametrize("name", WAITS)
def test_no_wait_ends_by_a_signal(name: str) -> None:
    """No EINTR, no false time-out: a wait ends by an interrupt or not at all."""
    with ExitStack() as stack:
        wait = waits(stack)[name]

        def body(victim: Victim) -> None:
            pytest.fail(f"returned {wait()!r}")

        under_signals([Victim(body, name=name)], rng(name), None, lambda: None)
