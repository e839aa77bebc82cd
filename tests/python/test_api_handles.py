"""Handles: states, wait(), cancel(), explain(); interrupts that become one, and those that queue (DESIGN S2, S3)."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
import weakref
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from interruptible_threading import (
    InterruptHandle,
    InterruptibleThread,
    ThreadInterrupted,
    critical_section,
    deliver_on_blocking,
    interrupt,
)
from support import GUARD, LONG, POLL, READ, RECV, SEM, SLEEP, Scene, Worker, assert_interrupted, parked, run_script, wait_until


class Custom(Exception):
    pass


#: An exception that was given to CPython (up to 3.11, where a thread may not be traced) and not raised yet is taken back too.
ARMED = """
import random, sys, threading, time
def refuse(event, args):
    if event == "sys.settrace": raise RuntimeError
sys.addaudithook(refuse)
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
begun, caught, stop, expected, random = [], [], [], [], random.Random(1)
def run():
    _core.mask(2)  # what comes between two rounds would come out of the thread
    begun.append(1)
    while not stop:
        try:
            _core.unmask(2)
            while not stop: pass
            _core.mask(2)
        except it.ThreadInterrupted as error:
            _core.mask(2)
            caught.append(error.interrupt_id)
thread = threading.Thread(target=run)
thread.start()
while not begun: time.sleep(0.001)
for _ in range(100):
    handle = it.interrupt(thread)
    time.sleep(random.random() * 0.012)
    if not handle.cancel(): expected.append(handle.id)
    while len(caught) < len(expected): time.sleep(0.001)
while expected[-1:] != caught[-1:] or not expected:  # one that is not taken back, at the end
    expected.append(it.interrupt(thread).id)
    while len(caught) < len(expected): time.sleep(0.001)
stop.append(1)
thread.join()
print(caught == expected)
"""


# ---- S2: handles ----------------------------------------------------------------------------------------------------------------


def test_handle_of_a_finished_thread() -> None:
    worker = Worker(int)
    worker.finish()
    handle = interrupt(worker, Custom, "late")
    assert isinstance(handle, InterruptHandle)
    assert (handle.state, handle.wait(), handle.cancel()) == ("discarded", True, False)
    assert (handle.exc, handle.reason) == (Custom, "late")
    assert "discarded" in handle.explain()
    assert "discarded" in repr(handle)


def blocked_in_c(scene: Scene) -> tuple[Worker, Any]:
    """A worker that holds interrupts back until the second value is called."""
    r, w = scene.pipe()

    def call() -> str:
        with critical_section():
            os.read(r, 1)
        time.sleep(0)
        return "whole"

    worker = Worker(call)
    parked(worker, *READ)
    return worker, lambda: os.write(w, b"x")


def test_cancel(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        handle = interrupt(worker)
        waiter = Worker(handle.wait)
        parked(waiter, *SEM)
        assert handle.cancel() is True
        assert waiter.value() is True
        assert (handle.state, handle.wait(), handle.cancel()) == ("retracted", True, False)
        go_on()
        assert worker.value() == "whole"


def test_cancel_while_a_condition_takes_its_lock_back(quiet: None) -> None:
    """That wait is not broken, so it is never too late to take an interrupt back there."""
    condition = threading.Condition(threading.Lock())

    def call() -> None:
        with condition:
            condition.wait()

    def takes_it_back() -> bool:
        frame = sys._current_frames().get(worker.ident or 0)
        return frame is not None and frame.f_code.co_name == "_acquire_restore"

    worker = Worker(call)
    parked(worker, *SEM)
    with condition:
        condition.notify()
        wait_until(takes_it_back, "it wants the lock back")
        parked(worker, *SEM)
        for turn in range(200):
            handle = interrupt(worker)
            for _ in range(turn % 40):  # it may have time to wake up
                time.sleep(0)
            assert handle.cancel() is True
            assert handle.state == "retracted"
    worker.value()


def test_cancelled_handle_leaves_room_for_another(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        first = interrupt(worker, reason=1)
        assert first.cancel()
        second = interrupt(worker, reason=2)
        assert second.id != first.id
        go_on()
        assert_interrupted(worker, second, 2)
        assert first.state == "retracted"


def test_wait_times_out_and_can_be_interrupted(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        handle = interrupt(worker)
        assert handle.wait(0) is False
        assert handle.wait(timeout=0.01) is False
        waiter = Worker(handle.wait)
        parked(waiter, *SEM)
        assert_interrupted(waiter, interrupt(waiter))
        assert handle.state == "masked"
        go_on()
        assert handle.wait(GUARD) is True
        assert_interrupted(worker, handle)


def test_explain(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        handle = interrupt(worker)
        text = handle.explain()
        assert "read" in text
        assert str(worker.ident) in text
        go_on()
        worker.finish()
        assert "delivered" in handle.explain()
        assert f"InterruptHandle {handle.id} delivered" in repr(handle)
    unstarted = threading.Thread(target=int)
    handle = interrupt(unstarted)
    assert "start" in handle.explain()
    assert handle.cancel()


def test_explain_names_the_peer(tmp_path: Path, quiet: None) -> None:
    asked: list[tuple[Worker, Any]] = []

    def explained(call: Any, *calls: str) -> str:
        """What explain() says of a masked thread that is parked in ``call()``."""

        def run() -> None:
            with critical_section():
                call()

        worker = Worker(run)
        parked(worker, *calls)
        asked.append((worker, interrupt(worker)))
        text: str = asked[-1][1].explain()
        assert text.endswith(", masked by critical_section()")
        return text

    with ExitStack() as undo:
        server = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = undo.enter_context(socket.create_connection(server.getsockname()))
        peer = undo.enter_context(server.accept()[0])
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert f"(fd {client.fileno()}) connected to {address}, " in explained(lambda: client.recv(1), *RECV)
        peer.send(b"1")
        assert_interrupted(*asked[-1])
        client.settimeout(LONG)
        assert f"(fd {client.fileno()}) connected to {address}, " in explained(lambda: client.recv(1), *POLL)
        peer.send(b"2")
        assert f"(fd {server.fileno()}) bound to {address}, " in explained(server.accept, "accept", "accept4")
        socket.create_connection(server.getsockname()).close()

        path = str(tmp_path / "local")
        local = undo.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(path)
        local.listen()
        near = undo.enter_context(socket.socket(socket.AF_UNIX))
        near.connect(path)
        far = undo.enter_context(local.accept()[0])
        assert f" connected to {path}, " in explained(lambda: near.recv(1), *RECV)
        far.send(b"3")

        read_end, write_end = os.pipe()
        undo.callback(os.close, read_end)
        undo.callback(os.close, write_end)
        assert f"(fd {read_end}) of pipe:[" in explained(lambda: os.read(read_end, 1), *READ)
        os.write(write_end, b"4")
        lock = threading.Lock()
        lock.acquire()
        assert "wait(), called by CPython" in explained(lock.acquire, *SEM)
        lock.release()
        for worker, handle in asked[1:]:
            assert_interrupted(worker, handle)


def test_a_handle_keeps_no_frames_alive(quiet: None) -> None:
    """The exception knows the variables of everything it came through."""

    class Local:
        pass

    seen: list[weakref.ref[Local]] = []

    def call() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        try:
            time.sleep(LONG)
        except ThreadInterrupted:
            pass

    worker = Worker(call)
    parked(worker, *SLEEP)
    handle = interrupt(worker)
    worker.finish(handle)
    wait_until(lambda: not worker.is_alive(), "it ends")
    gc.collect()
    assert seen[0]() is None
    assert handle.state == "delivered"


def test_a_thread_that_never_starts_is_not_kept(quiet: None) -> None:
    """Its interrupt kept it alive for ever."""
    thread = InterruptibleThread(target=print)
    handle, another = interrupt(thread), interrupt(thread, KeyError)
    alive = weakref.ref(thread)
    del thread
    gc.collect()
    assert alive() is None
    assert (handle.state, another.state, handle.wait()) == ("discarded", "discarded", True)


ENDS_UNTOLD = """
import sys, threading, time
go = threading.Event()
inside = threading.Event()
def body():
    _core.mask(2)
    inside.set()
    go.wait()
early = threading.Thread(target=body)
import interruptible_threading as it
from interruptible_threading import _core
early.start()
inside.wait()
it.install_patches()
handle = it.interrupt(early)
timeout = eval(sys.argv[1])
waiter = threading.Thread(target=lambda: print(handle.wait(timeout), handle.state))
waiter.start()
while not (_core.park_info(waiter.ident) or {}).get("parked"): time.sleep(0.0002)
go.set()
waiter.join()
"""


@pytest.mark.parametrize("timeout", [None, LONG])
def test_wait_for_a_thread_that_ends_unseen(timeout: float | None) -> None:
    """It was started before the patches were installed, so that nobody is told of its end: wait() never returned."""
    assert run_script(ENDS_UNTOLD, repr(timeout)) == "True discarded\n"


def test_cancelled_is_never_raised() -> None:
    assert run_script(ARMED) == "True\n"


def test_handles_are_made_by_interrupt_only() -> None:
    with pytest.raises(TypeError):
        InterruptHandle()


# ---- S3: coalescing -------------------------------------------------------------------------------------------------------------


def test_equal_interrupts_become_one(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        first = interrupt(worker, reason="first")
        second = interrupt(worker, reason="second")
        assert (second.id, second.reason) == (first.id, "first")
        assert first.cancel() is False, "the second one still wants it"
        assert first.state == "masked"
        assert second.cancel() is True
        assert first.state == second.state == "retracted"
        third, fourth = interrupt(worker), interrupt(worker, ThreadInterrupted)
        assert third.id == fourth.id
        go_on()
        assert_interrupted(worker, fourth)
        assert third.state == "delivered"


def test_different_interrupts_wait_their_turn(quiet: None) -> None:
    caught: list[BaseException] = []
    with Scene() as scene:
        r, w = scene.pipe()

        def catch(call: Any, *arguments: Any) -> None:
            try:
                call(*arguments)
            except BaseException as error:
                caught.append(error)

        def call() -> None:
            with deliver_on_blocking():
                with critical_section():
                    os.read(r, 1)
                for _ in range(3):
                    catch(time.sleep, LONG)

        worker = Worker(call)
        parked(worker, *READ)
        handles = [interrupt(worker, exc) for exc in (KeyError, Custom, ValueError, Custom, KeyError)]
        assert len({handle.id for handle in handles}) == 3
        os.write(w, b"x")
        worker.value()
        assert [type(error) for error in caught] == [KeyError, Custom, ValueError]
        assert {handle.state for handle in handles} == {"delivered"}


def two_in_a_row(r: int, handled: list[BaseException], later: list[BaseException]) -> None:
    def function() -> None:
        try:
            with critical_section():
                os.read(r, 1)
        except BaseException as error:
            handled.append(error)
        for _ in range(2):
            len(handled)

    try:
        function()
        while True:
            pass
    except BaseException as error:
        later.append(error)


def test_handler_does_not_catch_what_comes_behind_it(quiet: None) -> None:
    """The second interrupt comes when the handler of the first is over: out of the function, never into that handler again."""
    for _ in range(150):
        handled: list[BaseException] = []
        later: list[BaseException] = []
        with Scene() as scene:
            r, w = scene.pipe()

            worker = Worker(partial(two_in_a_row, r, handled, later))
            parked(worker, *READ)
            interrupt(worker, KeyError)
            second = interrupt(worker, Custom)
            os.write(w, b"x")
            worker.finish(second)
            assert [type(error) for error in handled] == [KeyError]
            assert [type(error) for error in later] == [Custom]


def test_cancel_in_the_middle_of_the_queue(quiet: None) -> None:
    with Scene() as scene:
        worker, go_on = blocked_in_c(scene)
        first, second = interrupt(worker, KeyError), interrupt(worker, Custom)
        assert first.cancel() is True
        go_on()
        assert type(worker.finish().error) is Custom
        assert (first.state, second.state) == ("retracted", "delivered")
