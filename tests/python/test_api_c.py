"""The C API through ctypes: interrupts without the GIL's help reach Python threads as the default exception."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from functools import partial
from typing import Any

import pytest
from interruptible_threading import ThreadInterrupted, check_interrupt, clear_interrupt, critical_section, interrupt, is_interrupted, status
from support import GUARD, LONG, READ, SLEEP, Scene, Worker, parked, wait_until

OK, COALESCED, INTERRUPTED = 0, 1, 2
ESRCH = 3
#: Calls give up the GIL, as those of any other C library.
library = ctypes.CDLL(status()["library"])
pthread_t = ctypes.c_ulong
for name in ("itr_interrupt", "itr_pending"):
    getattr(library, name).argtypes = [pthread_t]


class Where(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_char_p), ("fd", ctypes.c_int), ("mask", ctypes.c_int), ("pending", ctypes.c_int), ("exact", ctypes.c_int),
        ("since_ns", ctypes.c_int64), ("parks", ctypes.c_uint64), ("native_id", ctypes.c_int32), ("wake_fails", ctypes.c_int32),
        ("library", ctypes.c_char * 64),
    )  # fmt: skip


def sent(thread: threading.Thread) -> int:
    """itr_interrupt() from another thread."""
    result: int = Worker(partial(library.itr_interrupt, thread.ident)).value()
    return result


def assert_default(worker: Worker) -> None:
    error: Any = worker.finish().error
    assert type(error) is ThreadInterrupted
    assert error.__context__ is None
    assert (error.reason, error.source) == (None, 0)
    assert not is_interrupted(worker)


def test_version_and_state() -> None:
    library.itr_abi_version.restype = ctypes.c_uint32
    assert library.itr_abi_version() == status()["abi"]
    assert library.itr_active() == 1


def test_parked_thread(quiet: None) -> None:
    worker = Worker(partial(time.sleep, LONG))
    parked(worker, *SLEEP)
    assert sent(worker) == OK
    assert_default(worker)


def test_running_thread(quiet: None) -> None:
    def loop() -> None:
        while True:
            pass

    worker = Worker(loop)
    wait_until(lambda: library.itr_pending(worker.ident) == 0, "it is attached")
    assert sent(worker) in (OK, COALESCED)
    assert_default(worker)


def test_pending_and_coalesced(quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> None:
            with critical_section():
                os.read(r, 1)

        worker = Worker(call)
        parked(worker, *READ)
        assert library.itr_pending(worker.ident) == 0
        assert sent(worker) == OK
        assert sent(worker) == COALESCED
        assert library.itr_pending(worker.ident) == 1
        assert is_interrupted(worker)
        os.write(w, b"x")
        assert_default(worker)


def test_both_ways_at_once(quiet: None) -> None:
    """One from C and one from Python are two interrupts: each is raised."""
    caught: list[Any] = []
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> None:
            try:
                with critical_section():
                    os.read(r, 1)
            except ThreadInterrupted as error:
                caught.append(error.reason)
            time.sleep(LONG)

        worker = Worker(call)
        parked(worker, *READ)
        handle = interrupt(worker, reason="Python")
        assert sent(worker) in (OK, COALESCED)
        os.write(w, b"x")
        error: Any = worker.finish(handle).error
        assert type(error) is ThreadInterrupted
        assert sorted([*caught, error.reason], key=str) == [None, "Python"]
        assert handle.state == "delivered"


def test_clear(quiet: None) -> None:
    steps: list[Any] = []

    def call() -> None:
        with critical_section():
            steps.append("masked")
            while not is_interrupted():
                pass
            steps.append(clear_interrupt())
        check_interrupt()

    worker = Worker(call)
    wait_until(lambda: steps, "it is masked")
    assert sent(worker) == OK
    worker.value()
    assert steps == ["masked", True]


def test_checkpoint(quiet: None) -> None:
    """A C extension's view: interrupted, unless masked; nothing is consumed by looking."""
    steps: list[Any] = []

    def call() -> None:
        with critical_section():
            steps.append(library.itr_checkpoint())
            while not is_interrupted():
                pass
            steps.append(library.itr_checkpoint())
            library.itr_mask_push(1)
            steps.append(library.itr_mask_pop(1))
        steps.append("never")

    worker = Worker(call)
    wait_until(lambda: steps, "it is masked")
    assert sent(worker) == OK
    assert_default(worker)
    assert steps == [OK, OK, OK]


def test_checkpoint_says_interrupted(quiet: None) -> None:
    script: list[int] = []

    def call() -> None:
        checkpoint = ctypes.PyDLL(library._name).itr_checkpoint
        while not script or script[-1] == OK:
            script.append(checkpoint())
        time.sleep(LONG)

    def masked() -> None:
        from interruptible_threading import deliver_on_blocking

        with deliver_on_blocking():
            call()

    worker = Worker(masked)
    wait_until(lambda: script, "it runs")
    assert sent(worker) == OK
    assert_default(worker)
    assert script[-1] == INTERRUPTED
    assert set(script[:-1]) == {OK}


def test_where(quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()
        library.itr_where.argtypes = [pthread_t, ctypes.POINTER(Where)]

        def there(parks: int) -> bool:
            assert library.itr_where(worker.ident, ctypes.byref(where)) == OK
            return bool(where.call) and where.parks == parks

        worker = Worker(lambda: os.read(r, 1) + os.read(r, 1))
        before = parked(worker, *READ)["parks"]  # as it started it may have waited for a lock
        assert before >= 1
        where = Where()
        for number, byte in enumerate((b"x", b"y")):
            wait_until(lambda number=number: there(before + number), f"it is parked {number + 1} times")
            assert (where.call, where.fd, where.mask, where.pending) == (b"read", r, 0, 0)
            assert where.native_id == worker.native_id
            assert where.exact
            os.write(w, byte)
        assert worker.value() == b"xy"


@pytest.mark.parametrize("function", ["itr_interrupt", "itr_pending"])
def test_thread_that_is_not_attached(function: str) -> None:
    worker = Worker(int)
    worker.finish()
    ident = worker.ident
    wait_until(lambda: getattr(library, function)(ident) == -ESRCH, "the finished thread is detached")
    assert getattr(library, function)(threading.main_thread().ident) == -ESRCH


def test_bad_masks() -> None:
    def call() -> list[int]:
        return [library.itr_mask_push(level) for level in (-1, 3, 99)] + [library.itr_mask_pop(7)]

    assert all(result < 0 for result in Worker(call).value())


def test_many_from_c(quiet: None) -> None:
    """Each itr_interrupt() that was not coalesced is raised exactly once."""
    caught = [0]
    stop: list[bool] = []

    def call() -> None:
        while not stop:
            try:
                while not stop:
                    time.sleep(0.0001)
            except ThreadInterrupted:
                caught[0] += 1

    worker = Worker(call)
    for turn in range(200):
        parked(worker, *SLEEP)
        assert library.itr_interrupt(worker.ident) == OK
        wait_until(lambda turn=turn: caught[0] == turn + 1, "it is caught")
    stop.append(True)
    worker.join(GUARD)
    assert caught == [200]
