"""Interrupts that race with calls that make something: no descriptor leaks, no connection is dropped, no child is left."""

from __future__ import annotations

import gc
import os
import random as random_module
import socket
import subprocess
import time
from typing import Callable

import pytest
from stress_support import (
    GUARD,
    Books,
    Victim,
    children,
    count,
    open_descriptors,
    plain_interrupt,
    rng,
    spin,
    storm,
    switch_interval,
    until,
)

INTERVALS = pytest.mark.parametrize("interval", [None, 1e-5], ids=["switching", "switching-often"])
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def dup(victim: Victim) -> None:
    while not victim.stopping:
        fd = os.dup(0)
        os.close(fd)


def dup2(victim: Victim) -> None:
    at = os.dup(0)
    try:
        while not victim.stopping:
            os.dup2(0, at)
    finally:
        os.close(at)


def pipe(victim: Victim) -> None:
    while not victim.stopping:
        r, w = os.pipe()
        os.close(r)
        os.close(w)


def make_socket(victim: Victim) -> None:
    while not victim.stopping:
        sock = socket.socket()
        fd = sock.detach()
        os.close(fd)


def make_socketpair(victim: Victim) -> None:
    while not victim.stopping:
        a, b = socket.socketpair()
        os.close(a.detach())
        os.close(b.detach())


def socket_dup(victim: Victim) -> None:
    with socket.socket() as sock:
        while not victim.stopping:
            os.close(sock.dup().detach())


def os_open(victim: Victim) -> None:
    while not victim.stopping:
        fd = os.open("/dev/null", os.O_RDONLY)
        os.close(fd)


def io_open(victim: Victim) -> None:
    while not victim.stopping:
        with open("/dev/null") as file:
            file.read()


def pty(victim: Victim) -> None:
    while not victim.stopping:
        a, b = os.openpty()
        os.close(a)
        os.close(b)


def memfd(victim: Victim) -> None:
    while not victim.stopping:
        fd = os.memfd_create("test")
        os.close(fd)


@INTERVALS
@pytest.mark.parametrize("body", [dup, dup2, pipe, make_socket, make_socketpair, socket_dup, os_open, io_open, pty, memfd])
def test_descriptors(body: Callable[[Victim], None], interval: float | None) -> None:
    """As many descriptors as before."""
    warm_up()
    before = open_descriptors()
    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(100), rng(body.__name__, interval), feed=lambda: spin(300), waits=0.8)
    books.stop()
    delivered = books.balance()
    del books, victim
    gc.collect()
    assert settled(before) == set()
    assert delivered > 0


def warm_up() -> None:
    """Whatever opens descriptors the first time it is used has done so."""
    storm_target = Victim(lambda victim: time.sleep(1000.0))
    books = Books(storm_target)
    storm(books, 2, random_module.Random(1), waits=1.0)
    books.stop()
    with socket.socket():
        pass


def settled(before: set[str]) -> set[str]:
    """The descriptors that are new and stay, without the shim's pooled self-pipes (their number is bounded by the threads').

    What leaks stays; a look-up that an earlier test has left behind has a socket now and then.
    """
    end = time.monotonic() + GUARD
    while True:
        new = open_descriptors() - before
        rest = {name for name in new if "pipe:" not in name} | ({"pipes"} if len(new) > 8 else set())
        if not rest or time.monotonic() > end:
            return rest
        time.sleep(0.01)


@INTERVALS
def test_accept(interval: float | None) -> None:
    """Each connection made is accepted once."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        accepted = 0
        made = 0

        def body(victim: Victim) -> None:
            nonlocal accepted
            while not victim.stopping:
                conn, _ = server.accept()
                accepted += 1
                conn.close()

        def connect() -> None:
            nonlocal made
            if made - accepted < 50:
                with socket.create_connection(server.getsockname()):
                    made += 1

        victim = Victim(body)
        books = Books(victim)
        with switch_interval(interval):
            storm(books, count(100), rng(interval), feed=connect)
        books.stop()
        server.setblocking(False)
        left = 0
        while True:
            try:
                conn, _ = server.accept()
            except BlockingIOError:
                break
            left += 1
            conn.close()
        assert accepted + left == made
        assert books.balance() > 0


def reap_through_popen(before: set[int]) -> None:
    """Popen keeps the children that nobody waited for and reaps them later: no other new ones may be left."""
    end = time.monotonic() + GUARD
    while True:
        gc.collect()
        subprocess._cleanup()  # type: ignore[attr-defined]
        if children() <= before:
            return
        if time.monotonic() > end:
            pytest.fail(f"children that Popen does not know of: {children() - before}")
        time.sleep(0.001)


@INTERVALS
def test_popen(interval: float | None) -> None:
    """No child is lost, no zombie stays, no pipe leaks."""
    warm_up()
    earlier = children()
    before = open_descriptors()
    started = 0

    def body(victim: Victim) -> None:
        nonlocal started
        while not victim.stopping:
            process = subprocess.Popen(["/bin/true"], stdout=subprocess.PIPE)
            started += 1
            with process:
                assert process.stdout is not None
                process.stdout.read()

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(60), rng(interval), feed=lambda: spin(2000), waits=0.9)
    books.stop()
    delivered = books.balance()
    del books, victim
    reap_through_popen(earlier)
    assert settled(before) == set()
    assert delivered > 0
    assert started > 0


@INTERVALS
def test_posix_spawn(interval: float | None) -> None:
    """Each child that was made is known and reaped; nothing is left."""
    warm_up()
    earlier = children()
    before = open_descriptors()
    pending: list[int] = []
    reaped: list[tuple[int, int]] = []
    spawned = 0

    def body(victim: Victim) -> None:
        nonlocal spawned
        while not victim.stopping or pending:
            if not pending:
                pending.append(os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {spawned % 200}"], os.environ))
                spawned += 1
            got = os.waitpid(pending[-1], 0)
            reaped.append((pending[-1], os.WEXITSTATUS(got[1])))
            pending.pop()

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(60), rng(interval), feed=lambda: spin(2000), waits=0.9)
    books.stop()
    delivered = books.balance()
    for pid in pending:
        os.waitpid(pid, 0)
    assert [status for _, status in reaped] == [n % 200 for n in range(len(reaped))]
    assert len(reaped) + len(pending) == spawned
    assert children() <= earlier
    del books, victim
    gc.collect()
    assert settled(before) == set()
    assert delivered > 0
    assert spawned > 0


@INTERVALS
@pytest.mark.parametrize("wait", ["waitpid", "wait4", "waitid"])
def test_fork_and_wait(wait: str, interval: float | None) -> None:
    """Each child forked is reaped once, with its own status."""
    earlier = children()
    pending: list[tuple[int, int]] = []
    reaped: list[tuple[int, int]] = []
    forked = 0

    def reap(pid: int) -> int:
        if wait == "waitpid":
            return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
        if wait == "wait4":
            return os.WEXITSTATUS(os.wait4(pid, 0)[1])
        return os.waitid(os.P_PID, pid, os.WEXITED).si_status  # type: ignore[union-attr]

    def body(victim: Victim) -> None:
        nonlocal forked
        while not victim.stopping or pending:
            if not pending:
                pid = os.fork()
                if pid == 0:
                    os._exit(forked % 200)
                pending.append((pid, forked % 200))
                forked += 1
            got = reap(pending[-1][0])
            reaped.append((pending[-1][0], got))
            pending.pop()

    victim = Victim(body)
    books = Books(victim)
    with switch_interval(interval):
        storm(books, count(40), rng(wait, interval), feed=lambda: spin(2000), waits=0.9)
    books.stop()
    for pid, _ in pending:
        os.waitpid(pid, 0)
    assert [status for _, status in reaped] == [n % 200 for n in range(len(reaped))]
    assert len(reaped) + len(pending) == forked
    assert children() <= earlier
    assert books.balance() > 0


def test_the_checker_sees_what_a_plain_async_exception_leaks() -> None:
    """The same with PyThreadState_SetAsyncExc leaks descriptors: the test above is able to fail."""
    standard_input = os.readlink("/proc/self/fd/0")

    def copies() -> set[int]:
        return {int(name.split()[0]) for name in open_descriptors() if name.split(" ", 1)[1] == standard_input}

    before = copies()
    victim = Victim(dup)

    def leak() -> bool:
        caught = len(victim.caught)
        assert plain_interrupt(victim)
        until(lambda: len(victim.caught) > caught, victim.where)
        return len(copies() - before) > 3  # one of them may be about to be closed

    until(leak, "nothing leaks")
    Books(victim).stop()
    leaked = copies() - before
    for fd in leaked:
        os.close(fd)
    assert len(leaked) >= 3
