"""From interrupt() to the except clause, beside Event.set() waking a thread in the same run. One run; prints JSON."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Callable

from interruptible_threading import ThreadInterrupted, interrupt
from parked import Parker
from statistic import summary

Calls = dict[str, Callable[[], object]]
FAR = 600.0


def waits(undo: ExitStack) -> Calls:
    lock, rlock = threading.Lock(), threading.RLock()
    lock.acquire()
    rlock.acquire()
    other = threading.Thread(target=threading.Event().wait, daemon=True)
    other.start()

    def with_lock() -> None:
        with lock:
            pass

    return {
        "time.sleep": lambda: time.sleep(FAR),
        "with lock": with_lock,
        "lock.acquire(timeout)": lambda: lock.acquire(timeout=FAR),
        "rlock.acquire": rlock.acquire,
        "Event.wait": threading.Event().wait,
        "Queue.get": Queue[None]().get,
        "SimpleQueue.get": SimpleQueue[None]().get,
        "Thread.join": other.join,
    }


def descriptors(undo: ExitStack) -> Calls:
    ours, theirs = socket.socketpair()
    timed, timed_peer = socket.socketpair()
    for one in (ours, theirs, timed, timed_peer):
        undo.enter_context(one)
    timed.settimeout(FAR)
    listener = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    read_end, write_end = os.pipe()
    undo.callback(os.close, read_end)
    undo.callback(os.close, write_end)
    poll, epoll = select.poll(), undo.enter_context(select.epoll())
    poll.register(read_end, select.POLLIN)
    epoll.register(read_end, select.EPOLLIN)
    path = Path(undo.enter_context(tempfile.TemporaryDirectory())) / "locked"
    locked, waiting = undo.enter_context(path.open("w")), undo.enter_context(path.open("w"))
    fcntl.flock(locked, fcntl.LOCK_EX)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    undo.callback(child.communicate)
    return {
        "recv": lambda: ours.recv(16),
        "recv, time-out": lambda: timed.recv(16),
        "accept": listener.accept,
        "select": lambda: select.select([read_end], [], []),
        "poll": poll.poll,
        "epoll": epoll.poll,
        "os.read": lambda: os.read(read_end, 16),
        "flock": lambda: fcntl.flock(waiting, fcntl.LOCK_EX),
        "os.waitpid": lambda: os.waitpid(child.pid, 0),
        "sigwait": lambda: signal.sigwait({signal.SIGUSR1}),
    }


def tls(undo: ExitStack) -> Calls:
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    try:
        subprocess.run([*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return {}
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(certificate, key)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    left, right = socket.socketpair()
    made: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: made.append(serving.wrap_socket(left, server_side=True)))
    thread.start()
    client = undo.enter_context(asking.wrap_socket(right))
    thread.join()
    undo.enter_context(made[0])
    return {"TLS recv": lambda: client.recv(16)}


def parked(rounds: int) -> dict[str, dict[str, object]]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    results: dict[str, dict[str, object]] = {}
    with ExitStack() as undo:
        for name, call in {**waits(undo), **descriptors(undo), **tls(undo)}.items():
            parker = Parker(name, call)
            where = parker.wait_until_parked()
            pairs = [parker.both() for _ in range(rounds)]
            parker.end()
            mine, floor = summary([pair[0] for pair in pairs]), summary([pair[1] for pair in pairs])
            results[name] = {
                "call": where,
                **mine,
                "floor_p50": floor["p50"],
                "floor_p99": floor["p99"],
                "ratio": mine["p50"] / floor["p50"],
            }
    return results


# ---- threads that run Python code --------------------------------------------------------------------------------------------


def _count() -> None:
    n = 0
    while True:
        n += 1


def _nothing() -> None:
    pass


def _python_calls() -> None:
    while True:
        _nothing()


def _for_loop() -> None:
    for _ in itertools.repeat(None):
        pass


def _c_calls() -> None:
    text = "text"
    while True:
        text.upper()


LOOPS: Calls = {"while: n += 1": _count, "while: f()": _python_calls, "for: pass": _for_loop, "while: text.upper()": _c_calls}


def running(rounds: int) -> dict[str, dict[str, float]]:
    results = {}
    for name, loop in LOOPS.items():
        begun: SimpleQueue[None] = SimpleQueue()
        caught: SimpleQueue[float] = SimpleQueue()

        def run(loop: Callable[[], object] = loop, begun: SimpleQueue[None] = begun, caught: SimpleQueue[float] = caught) -> None:
            for _ in range(rounds):
                try:
                    begun.put(None)
                    loop()
                except ThreadInterrupted:
                    caught.put(time.perf_counter())

        thread = threading.Thread(target=run)
        thread.start()
        latencies = []
        for _ in range(rounds):
            begun.get()
            # We have the GIL back, a switch interval later: the loop has been running for that long.
            started = time.perf_counter()
            interrupt(thread)
            latencies.append(caught.get() - started)
        thread.join()
        results[name] = summary(latencies)
    return results


if __name__ == "__main__":
    json.dump({"parked": parked(int(sys.argv[1])), "loops": running(int(sys.argv[2]))}, sys.stdout)
