"""Look-ups at a name server that does not answer. Run by test_lookups.py, in a network of its own (silent_dns.py)."""

from __future__ import annotations

import ctypes
import errno
import http.client
import itertools
import os
import socket
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, critical_section, interrupt, status
from silent_dns import QUICK, QUICK_ADDRESS, RELEASE, SILENT, SILENT_ADDRESS
from support import Scene, Worker, assert_interrupted, broken, in_thread, parked, run_script, wait_until


def threads() -> int:
    """How many the kernel counts."""
    return int(Path("/proc/self/status").read_text().partition("\nThreads:")[2].split()[0])


def helpers() -> int:
    """Threads that make look-ups; one that ends meanwhile does not count.

    The kernel cuts a listing of the threads short where one of them ends under it, so that a live one may be missing:
    only a listing of as many as there are is believed.
    """
    while True:
        before, listed, count = threads(), 0, 0
        for task in Path("/proc/self/task").iterdir():
            try:
                count += (task / "comm").read_text() == "itr-resolver\n"
                listed += 1
            except OSError:
                pass
        if before == listed == threads():
            return count


def left_behind(count: int) -> None:
    """So many go on, and nobody waits for them. (One that was started a moment ago has no name yet.)"""
    wait_until(lambda: helpers() == count, f"{count} helpers, not {helpers()}")


def release() -> None:
    """Everything that was asked is answered, so that every helper ends; also one that has not asked yet."""
    wait_until(lambda: socket.gethostbyname(RELEASE) and helpers() == 0, "all helpers have ended")


@pytest.fixture(autouse=True)
def _release(quiet: None) -> Iterator[None]:
    threads = threading.active_count()
    yield
    release()
    wait_until(lambda: threading.active_count() <= threads, "no more threads than before")


# ---- interrupted ---------------------------------------------------------------------------------------------------------------

ANSWERED_ONCE = (f"once{os.getpid()}-{number}.example" for number in itertools.count())
LOOKUPS: dict[str, tuple[Callable[[], Any], str]] = {
    "getaddrinfo": (partial(socket.getaddrinfo, SILENT, 80), "getaddrinfo"),
    "getaddrinfo-all": (partial(socket.getaddrinfo, SILENT, "http", 0, socket.SOCK_STREAM, 6, socket.AI_CANONNAME), "getaddrinfo"),
    "getaddrinfo-bytes": (partial(socket.getaddrinfo, SILENT.encode(), None, socket.AF_INET6), "getaddrinfo"),
    "getaddrinfo-idna": (partial(socket.getaddrinfo, "stümm.example", 80), "getaddrinfo"),
    "gethostbyname": (partial(socket.gethostbyname, SILENT), "getaddrinfo"),
    "gethostbyname_ex": (partial(socket.gethostbyname_ex, SILENT), "getaddrinfo"),
    "gethostbyname_ex-second": (lambda: socket.gethostbyname_ex(next(ANSWERED_ONCE)), "gethostbyname_r"),
    "gethostbyaddr": (partial(socket.gethostbyaddr, SILENT_ADDRESS), "gethostbyaddr_r"),
    "gethostbyaddr-name": (partial(socket.gethostbyaddr, SILENT), "getaddrinfo"),
    "getnameinfo": (partial(socket.getnameinfo, (SILENT_ADDRESS, 80), 0), "getnameinfo"),
    "getnameinfo-6": (partial(socket.getnameinfo, ("2001:db8::77", 80, 0, 0), socket.NI_NAMEREQD), "getnameinfo"),
    "getfqdn": (partial(socket.getfqdn, SILENT), "getaddrinfo"),
    "create_connection": (partial(socket.create_connection, (SILENT, 80)), "getaddrinfo"),
    "create_connection-timeout": (partial(socket.create_connection, (SILENT, 80), 1000), "getaddrinfo"),
    "urlopen": (partial(urllib.request.urlopen, f"http://{SILENT}/"), "getaddrinfo"),
    "http.client": (http.client.HTTPConnection(SILENT).connect, "getaddrinfo"),
}
if sys.version_info < (3, 11, 7):  # (3.11.2 does it, 3.11.7 does not:) it keeps the GIL while it waits, so nobody could interrupt it
    del LOOKUPS["getnameinfo"], LOOKUPS["getnameinfo-6"]


@pytest.mark.parametrize("name", LOOKUPS)
def test_interrupted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    call, where = LOOKUPS[name]
    for expected in range(1, 4):
        broken(call, where)
        left_behind(expected)


SOCKETS: dict[str, Callable[[socket.socket], Callable[[], Any]]] = {
    "connect": lambda s: partial(s.connect, (SILENT, 80)),
    "connect_ex": lambda s: partial(s.connect_ex, (SILENT, 80)),
    "bind": lambda s: partial(s.bind, (SILENT, 0)),
    "sendto": lambda s: partial(s.sendto, b"lost", (SILENT, 9)),
    "sendmsg": lambda s: partial(s.sendmsg, [b"lost"], [], 0, (SILENT, 9)),
}


@pytest.mark.parametrize("timeout", [None, 1000.0])
@pytest.mark.parametrize("name", SOCKETS)
def test_address_of_a_socket(name: str, timeout: float | None) -> None:
    """The socket is as it was."""
    with Scene() as scene:
        server = scene.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        client = scene.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(timeout)
        broken(SOCKETS[name](client), "getaddrinfo")
        left_behind(1)
        assert client.gettimeout() == timeout
        assert client.getsockname() == ("0.0.0.0", 0)
        in_thread(partial(client.connect, (QUICK, server.getsockname()[1])))
        client.send(b"arrives")
        assert server.recv(16) == b"arrives"


def test_masked() -> None:
    """A mask is airtight; the result is kept, and the interrupt comes when the block is left."""
    got = []

    def call() -> None:
        with critical_section():
            got.append(socket.gethostbyname(SILENT))

    worker = Worker(call)
    parked(worker, "getaddrinfo")
    handle = interrupt(worker)
    time.sleep(0.05)
    assert worker.is_alive()
    assert handle.state == "masked"
    assert "getaddrinfo" in handle.explain() or "critical_section" in handle.explain()
    socket.gethostbyname(RELEASE)
    assert_interrupted(worker, handle)
    assert got == ["127.0.0.1"]


@pytest.mark.skipif(not status()["preloaded"], reason="ctypes finds libc's own function, which no object calls")
def test_c_library() -> None:
    """A caller that is not CPython's own is told so, as of a signal, and the interrupt comes when it is back in Python."""
    told = []

    def call() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        found = ctypes.c_void_p()
        told.append((libc.getaddrinfo(SILENT.encode(), None, None, ctypes.byref(found)), ctypes.get_errno()))
        time.sleep(1000)

    worker = Worker(call)
    assert not parked(worker, "getaddrinfo")["exact"]
    assert_interrupted(worker, interrupt(worker))
    assert told == [(socket.EAI_SYSTEM, errno.EINTR)]


def test_answered_meanwhile() -> None:
    """Answers and interrupts in a race: the address or the interrupt, nothing else."""
    ended: dict[Any, int] = {}
    for i in range(60):
        worker = Worker(partial(socket.gethostbyname, SILENT))
        parked(worker, "getaddrinfo")
        timer = threading.Timer(i % 6 * 0.0001, socket.gethostbyname, (RELEASE,))
        timer.start()
        time.sleep(i % 10 * 0.0001)
        handle = interrupt(worker)
        outcome = worker.finish(handle)
        key = outcome.value or type(outcome.error)
        ended[key] = ended.get(key, 0) + 1
        timer.join()
    assert set(ended) <= {"127.0.0.1", ThreadInterrupted}
    print(ended)


def test_how_fast() -> None:
    """From interrupt() to the except clause."""
    times = []
    for i in range(200):
        if i % 20 == 0:
            release()
        caught: list[float] = []

        def call(caught: list[float] = caught) -> None:
            try:
                socket.getaddrinfo(SILENT, 80)
            except ThreadInterrupted:
                caught.append(time.perf_counter())

        worker = Worker(call)
        parked(worker, "getaddrinfo")
        time.sleep(0.0005)
        begun = time.perf_counter()
        interrupt(worker)
        worker.value()
        times.append((caught[0] - begun) * 1e6)
    times.sort()
    print(f"silent server: p50 {statistics.median(times):.0f} us, p99 {times[197]:.0f} us, most {times[-1]:.0f} us")


# ---- the same results ----------------------------------------------------------------------------------------------------------

ANSWERED: dict[str, Callable[[], Any]] = {
    "getaddrinfo": partial(socket.getaddrinfo, QUICK, "http"),
    "canonical": partial(socket.getaddrinfo, QUICK, 80, 0, 0, 0, socket.AI_CANONNAME),
    "AF_INET6": partial(socket.getaddrinfo, QUICK, 80, socket.AF_INET6),
    "gethostbyname": partial(socket.gethostbyname, QUICK),
    "gethostbyname_ex": partial(socket.gethostbyname_ex, QUICK),
    "gethostbyaddr": partial(socket.gethostbyaddr, QUICK_ADDRESS),
    "getnameinfo": partial(socket.getnameinfo, (QUICK_ADDRESS, 80), 0),
    "getnameinfo-udp": partial(socket.getnameinfo, (QUICK_ADDRESS, 53), socket.NI_DGRAM),
    "malformed": partial(socket.getaddrinfo, b"a..b", 80),
}


def result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return type(error), error.args


@pytest.mark.parametrize("name", ANSWERED)
def test_answered(name: str) -> None:
    """In a worker, whose look-up a helper makes, as in the main thread, which asks libc."""
    assert in_thread(partial(result_of, ANSWERED[name])) == result_of(ANSWERED[name])


# ---- the bound -----------------------------------------------------------------------------------------------------------------


def test_bound() -> None:
    """Two may be left behind; the third waits in line, can be interrupted there, and is made when one has ended."""
    body = """if True:
        import socket, sys
        sys.path.insert(0, sys.argv[1])
        import interruptible_threading
        interruptible_threading.install_patches()
        from lookups_inside import *
        for i in range(2):
            broken(partial(socket.gethostbyname, f"silent{i}.example"), "getaddrinfo")
        left_behind(2)
        for i in range(5):
            broken(partial(socket.gethostbyname, SILENT), "getaddrinfo")
            left_behind(2)
        late = Worker(partial(socket.gethostbyname, QUICK))
        numeric = in_thread(partial(socket.getaddrinfo, "127.0.0.1", 80))
        parked(late, "getaddrinfo")
        time.sleep(0.1)
        assert late.is_alive() and helpers() == 2
        socket.gethostbyname(RELEASE)
        assert late.value() == "127.0.0.1"
        release()
        print("done")
    """
    here = os.path.dirname(os.path.abspath(__file__))
    assert run_script(body, here, env={"INTERRUPTIBLE_MAX_LOOKUPS": "2"}) == "done\n"


def test_loaded_late() -> None:
    """Without a preload: calls that were bound when the patches were installed."""
    body = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import interruptible_threading
        interruptible_threading.install_patches()
        assert not interruptible_threading.status()["preloaded"]
        from lookups_inside import *
        for call, where in LOOKUPS.values():
            broken(call, where)
            release()
        print("done")
    """
    here = os.path.dirname(os.path.abspath(__file__))
    assert run_script(body, here, env={"LD_PRELOAD": "", "no_proxy": "*"}) == "done\n"


def test_exit_while_abandoned() -> None:
    """The interpreter ends at once, whatever helpers do. (run_script() is out of patience before libc is.)"""
    body = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import interruptible_threading
        interruptible_threading.install_patches()
        from lookups_inside import *
        for i in range(10):
            broken(partial(socket.gethostbyname, f"silent{i}.example"), "getaddrinfo")
        left_behind(10)
        print("done")
    """
    here = os.path.dirname(os.path.abspath(__file__))
    assert run_script(body, here) == "done\n"
