"""References taken before the patches, bound methods and subclasses; and interrupts that are pending when a call begins."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import critical_section, deliver_on_blocking, interrupt, is_interrupted
from support import Scene, Worker, assert_interrupted, in_thread, run_script, wait_until

CAPTURED = """
import _thread, os, queue, select, socket, sys, threading, time
from os import read
from select import select as wait_for
from threading import Lock, Thread
from time import sleep

class Sock(socket.socket): pass
class Q(queue.SimpleQueue): pass
class R(type(threading.RLock())): pass

lock = Lock(); lock.acquire(); acquire = lock.acquire; enter = lock.__enter__
other = Lock(); other.acquire()
rlock = R(); _thread.start_new_thread(rlock.acquire, ())
while rlock.acquire(blocking=False): rlock.release(); sleep(0.001)
q = Q(); get = q.get
r, w = os.pipe()
a, b = socket.socketpair(); sock = Sock(fileno=a.detach()); recv = sock.recv
forever = Thread(target=sleep, args=(10**6,), daemon=True); forever.start(); join = forever.join
default = (lambda call=sleep: call(10**6))
event = threading.Event(); event_wait = event.wait
started_before = [None]; go = Lock(); go.acquire()
def old():
    with go: pass
    started_before[0]()
def use_lock():
    with other: print("the body ran")

import interruptible_threading as it
from interruptible_threading import _core
CALLS = dict(sleep=lambda: sleep(10**6), default=default, acquire=acquire, enter=enter, get=get, recv=lambda: recv(1),
    rlock=rlock.acquire, rlock_class=lambda: R.acquire(rlock), read=lambda: read(r, 1), select=lambda: wait_for([r], [], []),
    join=join, event=event_wait, use_lock=use_lock, unbound=lambda: type(lock).acquire(lock),
    method=lambda: socket.socket.recv(sock, 1), getattr=lambda: getattr(q, "get")(), super=lambda: super(Q, q).get())
old_thread = None
def check(name, call, thread=None):
    out = []
    def body():
        try: out.append(("returned", call()))
        except it.ThreadInterrupted as error: out.append(("interrupted", type(error) is it.ThreadInterrupted and error.__context__ is None))
        except BaseException as error: out.append(("raised", repr(error)))
    if thread is None:
        thread = Thread(target=body, daemon=True); thread.start()
    else:
        started_before[0] = body; go.release()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        info = _core.park_info(thread.ident)
        if info and info["parked"] and info["exact"]: break
        sleep(0.001)
    else: out.append("not parked")
    it.interrupt(thread)
    thread.join(60)
    print(name, out)
"""


def test_captured_before_the_patches() -> None:
    output = run_script(CAPTURED + "it.install_patches()\nfor name, call in CALLS.items(): check(name, call)")
    lines = output.splitlines()
    assert len(lines) == 17
    assert [line for line in lines if not line.endswith("[('interrupted', True)]")] == []


def test_thread_started_before_the_patches() -> None:
    """It attaches at its first exact call after the patches, or at the first interrupt."""
    output = run_script(
        CAPTURED
        + "old_thread = Thread(target=old, daemon=True); old_thread.start()\n"
        + "it.install_patches()\ncheck('sleep', lambda: sleep(10**6), old_thread)"
    )
    assert output == "sleep [('interrupted', True)]\n"


def test_thread_parked_before_the_patches() -> None:
    """Parked in an unpatched call: the interrupt is kept, and comes when that call has returned."""
    script = """
import os, threading, time
import interruptible_threading as it
r, w = os.pipe()
out, begun = [], []
def body():
    try:
        begun.append(1)
        out.append(os.read(r, 1))
        time.sleep(10**6)
    except BaseException as error: out.append(type(error).__name__)
thread = threading.Thread(target=body, daemon=True); thread.start()
def asleep():
    with open(f"/proc/self/task/{thread.native_id}/stat") as file: return file.read().rpartition(")")[2].split()[0] == "S"
while not (begun and asleep()): time.sleep(0.001)
it.install_patches()
handle = it.interrupt(thread)
os.write(w, b"x")
thread.join(60)
print(out, handle.state)
"""
    assert run_script(script) in ("[b'x', 'ThreadInterrupted'] delivered\n", "['ThreadInterrupted'] delivered\n")


# Calls that could go ahead at once, though an interrupt is pending: they raise it, and have done nothing.
class Ready:
    """Things on which every call would succeed without waiting."""

    def __init__(self, scene: Scene) -> None:
        self.r, self.w = scene.pipe()
        os.write(self.w, b"byte")
        self.a, self.b = scene.socketpair()
        self.b.sendall(b"byte")
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.semaphore = threading.Semaphore(1)
        self.queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.queue.put(1)
        self.file = scene.file(b"content")
        self.fd = os.open(self.file, os.O_RDWR)
        scene.callback(os.close, self.fd)
        self.server = scene.listener()
        self.client = scene.enter_context(socket.create_connection(self.server.getsockname()))
        self.event = threading.Event()
        self.event.set()

    def use_lock(self) -> None:
        with self.lock:
            self.event.clear()

    def untouched(self) -> None:
        assert os.read(self.r, 10) == b"byte"
        assert self.a.recv(10) == b"byte"
        assert in_thread(partial(self.lock.acquire, False))
        assert in_thread(partial(self.rlock.acquire, False))
        assert self.semaphore.acquire(False)
        assert self.queue.get(False) == 1
        assert os.pread(self.fd, 100, 0) == b"content"
        assert os.lseek(self.fd, 0, os.SEEK_CUR) == 0
        connection, address = self.server.accept()
        assert address == self.client.getsockname()
        connection.close()
        assert self.event.is_set()
        self.b.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.b.recv(1)
        os.set_blocking(self.r, False)
        with pytest.raises(BlockingIOError):
            os.read(self.r, 1)


PENDING: dict[str, Callable[[Ready], Any]] = {
    "os.read": lambda x: os.read(x.r, 1),
    "os.readv": lambda x: os.readv(x.r, [bytearray(1)]),
    "os.write": lambda x: os.write(x.w, b"no"),
    "os.writev": lambda x: os.writev(x.w, [b"no"]),
    "os.pread": lambda x: os.pread(x.fd, 1, 0),
    "os.preadv": lambda x: os.preadv(x.fd, [bytearray(1)], 0),
    "os.pwrite": lambda x: os.pwrite(x.fd, b"no", 0),
    "os.pwritev": lambda x: os.pwritev(x.fd, [b"no"], 0),
    "os.copy_file_range": lambda x: getattr(os, "copy_file_range", os.read)(
        *((x.fd, x.fd, 2) if hasattr(os, "copy_file_range") else (x.fd, 1))
    ),
    "os.sendfile": lambda x: os.sendfile(x.a.fileno(), x.fd, 0, 3),
    "os.open": lambda x: os.open(x.file, os.O_RDWR | os.O_TRUNC),
    "open": lambda x: open(x.file, "w"),
    "time.sleep": lambda x: time.sleep(0),
    "lock.acquire": lambda x: x.lock.acquire(),
    "with lock": lambda x: x.use_lock(),
    "rlock.acquire": lambda x: x.rlock.acquire(),
    "semaphore.acquire": lambda x: x.semaphore.acquire(),
    "queue.get": lambda x: x.queue.get(),
    "recv": lambda x: x.a.recv(1),
    "send": lambda x: x.a.send(b"no"),
    "sendall": lambda x: x.a.sendall(b"no"),
    "accept": lambda x: x.server.accept(),
}


@pytest.mark.parametrize("name", PENDING)
def test_pending_when_the_call_begins(name: str, quiet: None) -> None:
    with Scene() as scene:
        ready = Ready(scene)
        spinning: list[bool] = []

        def call() -> None:
            with deliver_on_blocking():
                spinning.append(True)
                while not is_interrupted():
                    pass
                PENDING[name](ready)

        worker = Worker(call)
        wait_until(lambda: spinning, "the worker runs")
        assert_interrupted(worker, interrupt(worker))
        ready.untouched()


# Calls whose result must not be lost: done, and the interrupt comes after them.
EFFECTS: dict[str, Callable[[], list[int]]] = {
    "os.dup": lambda: [os.dup(0)],
    "os.pipe": lambda: list(os.pipe()),
    "os.pipe2": lambda: list(os.pipe2(0)),
    "socket": lambda: [socket.socket().detach()],
    "socketpair": lambda: [sock.detach() for sock in socket.socketpair()],
}


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_are_not_lost(name: str, quiet: None) -> None:
    """A masked call of this kind completes; an unmasked pending one does not get in its way either."""
    results: list[int] = []
    with Scene():
        spinning: list[bool] = []

        def call() -> None:
            with deliver_on_blocking():
                spinning.append(True)
                while not is_interrupted():
                    pass
                results.extend(EFFECTS[name]())
                time.sleep(0)

        worker = Worker(call)
        wait_until(lambda: spinning, "the worker runs")
        assert_interrupted(worker, interrupt(worker))
        assert results
        for fd in results:
            os.close(fd)


def test_masked_calls_complete(quiet: None) -> None:
    with Scene() as scene:
        ready = Ready(scene)
        spinning: list[bool] = []
        done: list[Any] = []

        def call() -> None:
            with critical_section():
                spinning.append(True)
                while not is_interrupted():
                    pass
                done.append(os.read(ready.r, 10))
                done.append(ready.a.recv(10))
                done.append(ready.queue.get())
                ready.use_lock()
                time.sleep(0)

        worker = Worker(call)
        wait_until(lambda: spinning, "the worker runs")
        assert_interrupted(worker, interrupt(worker))
        assert done == [b"byte", b"byte", 1]
        assert not ready.event.is_set()
