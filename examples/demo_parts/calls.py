"""The blocking calls of the demo. This module uses the standard library only: both sides of the comparison park in the same."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import queue
import select
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from certificate import self_signed

FAR = 600.0  # seconds: never reached


@dataclass
class Call:
    family: str
    name: str
    park: Callable[[], object]
    #: Run when the call was interrupted: says what is still as it should be; an AssertionError if it is not.
    afterwards: Callable[[], str] | None = None
    #: Runs Python code instead of waiting in a call.
    runs: bool = False


def _sleeps_and_locks(undo: ExitStack) -> list[Call]:
    lock, rlock = threading.Lock(), threading.RLock()
    condition, barrier = threading.Condition(), threading.Barrier(2)
    shared = multiprocessing.get_context("spawn").Lock()
    lock.acquire()
    rlock.acquire()
    shared.acquire()
    entered: list[str] = []

    def with_lock() -> None:
        with lock:
            entered.append("lock")

    def with_rlock() -> None:
        with rlock:
            entered.append("rlock")

    def wait_on_condition() -> None:
        with condition:
            condition.wait()

    def body_not_run() -> str:
        assert not entered and lock.locked()
        return "body not run"

    def condition_is_free() -> str:
        with condition:
            return "its lock is free"

    return [
        Call("sleep", "time.sleep(600)", lambda: time.sleep(FAR)),
        Call("locks", "with lock", with_lock, body_not_run),
        Call("locks", "with rlock", with_rlock, body_not_run),
        Call("locks", "lock.acquire()", lock.acquire),
        Call("locks", "lock.acquire(timeout=600)", lambda: lock.acquire(timeout=FAR)),
        Call("locks", "Event.wait()", threading.Event().wait),
        Call("locks", "Condition.wait()", wait_on_condition, condition_is_free),
        Call("locks", "Semaphore.acquire()", threading.Semaphore(0).acquire),
        Call("locks", "Barrier.wait()", barrier.wait),
        Call("locks", "multiprocessing.Lock.acquire", shared.acquire),
    ]


def _queues_and_threads(undo: ExitStack) -> list[Call]:
    items: queue.Queue[str] = queue.Queue()
    simple: queue.SimpleQueue[str] = queue.SimpleQueue()
    full: queue.Queue[int] = queue.Queue(1)
    full.put(1)
    never: Future[None] = Future()
    stop = threading.Event()
    other = threading.Thread(target=stop.wait, daemon=True)
    other.start()
    undo.callback(stop.set)

    def queue_works() -> str:
        items.put("item")
        assert items.get_nowait() == "item" and items.empty()
        return "the queue works"

    def still_alive() -> str:
        assert other.is_alive()
        return "it is still alive"

    return [
        Call("queues", "Queue.get()", items.get, queue_works),
        Call("queues", "Queue.get(timeout=600)", lambda: items.get(timeout=FAR), queue_works),
        Call("queues", "Queue.put(), full", lambda: full.put(2)),
        Call("queues", "SimpleQueue.get()", simple.get),
        Call("threads", "Thread.join()", other.join, still_alive),
        Call("threads", "Thread.join(600)", lambda: other.join(FAR), still_alive),
        Call("threads", "Future.result()", never.result),
    ]


def _sockets(undo: ExitStack) -> list[Call]:
    def pair() -> tuple[socket.socket, socket.socket]:
        left, right = socket.socketpair()
        return undo.enter_context(left), undo.enter_context(right)

    ours, theirs = pair()
    timed, _peer = pair()
    timed.settimeout(FAR)
    sender, _reader = pair()
    listener = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))

    # A Unix socket whose backlog is full keeps connect() waiting.
    path = str(Path(undo.enter_context(tempfile.TemporaryDirectory())) / "socket")
    busy = undo.enter_context(socket.socket(socket.AF_UNIX))
    busy.bind(path)
    busy.listen(0)
    undo.enter_context(socket.socket(socket.AF_UNIX)).connect(path)

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    def socket_works() -> str:
        theirs.sendall(b"data")
        assert ours.recv(16) == b"data"
        return "the next recv gets data"

    def timeout_unchanged() -> str:
        assert timed.gettimeout() == FAR
        return "time-out unchanged"

    return [
        Call("sockets", "recv", lambda: ours.recv(16), socket_works),
        Call("sockets", "recv, socket with time-out", lambda: timed.recv(16), timeout_unchanged),
        Call("sockets", "recv_into", lambda: ours.recv_into(bytearray(16)), socket_works),
        Call("sockets", "recvmsg", lambda: ours.recvmsg(16), socket_works),
        Call("sockets", "recvfrom, UDP", lambda: udp.recvfrom(16)),
        Call("sockets", "sendall, peer does not read", lambda: sender.sendall(b"x" * 1_000_000)),
        Call("sockets", "accept", listener.accept),
        Call("sockets", "connect, backlog full", connect),
    ]


def _tls(undo: ExitStack) -> list[Call]:
    files = self_signed(Path(undo.enter_context(tempfile.TemporaryDirectory())))
    if files is None:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    trusting = ssl.create_default_context(cafile=str(files[0]))
    left, right = socket.socketpair()
    made: list[ssl.SSLSocket] = []
    serving = threading.Thread(target=lambda: made.append(context.wrap_socket(left, server_side=True)), daemon=True)
    serving.start()
    client = undo.enter_context(trusting.wrap_socket(right, server_hostname="localhost"))
    serving.join()
    server = undo.enter_context(made[0])
    silent, _peer = socket.socketpair()
    undo.enter_context(silent)
    undo.enter_context(_peer)

    def handshake() -> None:
        with socket.socket(fileno=os.dup(silent.fileno())) as raw:
            trusting.wrap_socket(raw, server_hostname="localhost")

    def session_works() -> str:
        server.sendall(b"over TLS")
        assert client.recv(16) == b"over TLS"
        client.sendall(b"and back")
        assert server.recv(16) == b"and back"
        return "the session works"

    return [
        Call("TLS", "SSLSocket.recv", lambda: client.recv(16), session_works),
        Call("TLS", "do_handshake", handshake),
    ]


def _descriptors_and_files(undo: ExitStack) -> list[Call]:
    read_end, write_end = os.pipe()
    undo.callback(os.close, read_end)
    undo.callback(os.close, write_end)
    buffered = undo.enter_context(os.fdopen(read_end, "rb", closefd=False))
    poll, epoll = select.poll(), undo.enter_context(select.epoll())
    poll.register(read_end, select.POLLIN)
    epoll.register(read_end, select.EPOLLIN)
    selector = undo.enter_context(selectors.DefaultSelector())
    selector.register(read_end, selectors.EVENT_READ)
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    locked = undo.enter_context((folder / "locked").open("w"))
    fcntl.flock(locked, fcntl.LOCK_EX)
    other = undo.enter_context((folder / "locked").open("w"))

    def pipe_works() -> str:
        os.write(write_end, b"line\n")
        assert os.read(read_end, 16) == b"line\n"
        return "no byte is gone"

    return [
        Call("waiting", "select.select", lambda: select.select([read_end], [], [])),
        Call("waiting", "poll", poll.poll),
        Call("waiting", "epoll", epoll.poll),
        Call("waiting", "selectors", selector.select),
        Call("files", "os.read, pipe", lambda: os.read(read_end, 16), pipe_works),
        Call("files", "readline, buffered pipe", buffered.readline, pipe_works),
        Call("files", "open, FIFO without a writer", lambda: fifo.open("rb")),
        Call("files", "fcntl.flock", lambda: fcntl.flock(other, fcntl.LOCK_EX)),
    ]


def _processes_and_signals(undo: ExitStack) -> list[Call]:
    # Waits for the end of a pipe that only this process holds, so that it ends with it, however that ends.
    alive, hold = os.pipe()
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=alive, stdout=subprocess.PIPE)
    os.close(alive)
    undo.callback(child.communicate)
    undo.callback(os.close, hold)

    def not_reaped() -> str:
        assert child.poll() is None
        return "the child still runs"

    return [
        Call("processes", "os.waitpid", lambda: os.waitpid(child.pid, 0), not_reaped),
        Call("processes", "Popen.wait()", child.wait, not_reaped),
        Call("processes", "Popen.communicate()", child.communicate, not_reaped),
        Call("signals", "signal.sigwait", lambda: signal.sigwait({signal.SIGUSR1})),
        Call("signals", "signal.pause", signal.pause),
    ]


def _count() -> None:
    n = 0
    while True:
        n += 1


def all_calls(undo: ExitStack) -> list[Call]:
    """Every call of the demo, ready to be parked in; ``undo`` gets what has to be closed."""
    # sigwait needs its signal blocked, in every thread: those made later inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    calls: list[Call] = []
    for part in (_sleeps_and_locks, _queues_and_threads, _sockets, _tls, _descriptors_and_files, _processes_and_signals):
        calls += part(undo)
    return [*calls, Call("Python code", "while True: n += 1", _count, runs=True)]
