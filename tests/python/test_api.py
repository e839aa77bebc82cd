"""interrupt(), its handle and its exception; what is pending, and for whom (DESIGN S1 to S6, S10, S12)."""

from __future__ import annotations

import _thread
import os
import threading
import time
from functools import partial
from typing import Any

import interruptible_threading
import pytest
from interruptible_threading import (
    InterruptibleThread,
    ThreadInterrupted,
    _core,
    check_interrupt,
    clear_interrupt,
    install_patches,
    interrupt,
    interruptible_checkpoint,
    is_interrupted,
    periodic_checkpoint,
    set_poll_interval,
    status,
    uninstall_patches,
)
from support import GUARD, LONG, READ, SEM, SLEEP, Scene, Worker, assert_interrupted, parked, run_script, wait_until

sleeper = partial(time.sleep, LONG)


class Custom(Exception):
    pass


def test_every_public_name() -> None:
    assert sorted(interruptible_threading.__all__) == interruptible_threading.__all__
    for name in interruptible_threading.__all__:
        thing = getattr(interruptible_threading, name)
        assert thing.__doc__, f"{name} has no docstring"
    assert set(interruptible_threading.__all__) >= {
        "InterruptHandle", "InterruptibleThread", "ThreadInterrupted", "check_interrupt", "clear_interrupt", "critical_section",
        "deliver_on_blocking", "install_patches", "interrupt", "interruptible_accept", "interruptible_checkpoint",
        "interruptible_recv", "interruptible_send", "interrupts_disabled", "is_interrupted", "periodic_checkpoint",
        "run_interruptible", "set_poll_interval", "status", "uninstall_patches", "uninterruptible",
    }  # fmt: skip
    assert interruptible_checkpoint is check_interrupt
    assert issubclass(ThreadInterrupted, BaseException)
    assert not issubclass(ThreadInterrupted, Exception)
    for method in ("install_patches", "uninstall_patches", "run_interruptible", "interrupt", "get_thread_cls_for_current_thread"):
        assert getattr(InterruptibleThread, method).__doc__


# ---- S1: targets, exceptions, reasons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thread", "ident", "native_id"])
def test_targets(name: str, quiet: None) -> None:
    worker = Worker(sleeper)
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker if name == "thread" else getattr(worker, name)))


def test_thread_that_threading_does_not_know(quiet: None) -> None:
    idents: list[int] = []
    errors: list[BaseException] = []

    def body() -> None:
        idents.append(_thread.get_native_id())
        try:
            time.sleep(LONG)
        except BaseException as error:
            errors.append(error)

    ident = _thread.start_new_thread(body, ())
    wait_until(lambda: (_core.park_info(ident) or {}).get("parked"), "it is parked")
    handle = interrupt(ident)
    wait_until(lambda: errors, "it is interrupted")
    assert type(errors[0]) is ThreadInterrupted
    assert handle.state == "delivered"


#: Nobody knows their native thread IDs before 3.11: each is attached from outside, while it runs or waits, and by itself later.
BEFORE_THE_LIBRARY = """
import _thread, time
started, caught = [], []
def body():
    try:
        started.append(_thread.get_ident())  # no sooner: from here on it is interrupted
        while True:
            for _ in range(100): pass
            time.sleep(0.0002)
    except BaseException as error: caught.append(type(error).__name__)
for _ in range(20): _thread.start_new_thread(body, ())
while len(started) < 20: time.sleep(0.001)
from interruptible_threading import interrupt
handles = [interrupt(ident) for ident in started]
print(all(handle.wait(GUARD) for handle in handles), {handle.state for handle in handles})
while len(caught) < 20: time.sleep(0.001)
print(set(caught))
"""


def test_threads_that_ran_before_the_library(quiet: None) -> None:
    """Interrupts of these were lost up to 3.10, when the thread came to its first blocking call."""
    assert run_script(BEFORE_THE_LIBRARY.replace("GUARD", str(GUARD))) == "True {'delivered'}\n{'ThreadInterrupted'}\n"


def test_class(quiet: None) -> None:
    worker = Worker(sleeper)
    parked(worker, *SLEEP)
    handle = interrupt(worker, Custom, reason=[1])
    error: Any = worker.finish(handle).error
    assert type(error) is Custom
    assert (error.reason, error.source, error.interrupt_id) == ([1], threading.get_ident(), handle.id)
    assert (handle.exc, handle.reason, handle.source) == (Custom, [1], threading.get_ident())
    assert error.__context__ is None


@pytest.mark.parametrize("running", [False, True], ids=["parked", "running"])
def test_instance(running: bool, quiet: None) -> None:
    go = [True]

    def loop() -> None:
        while go:
            pass

    instance = Custom("the very one")
    worker = Worker(loop if running else sleeper)
    if not running:
        parked(worker, *SLEEP)
    handle = interrupt(worker, instance, "why")
    error: Any = worker.finish(handle).error
    go.clear()
    assert error is instance
    assert error.args == ("the very one",)
    assert (error.reason, error.source, error.interrupt_id) == ("why", threading.get_ident(), handle.id)
    assert handle.exc is instance


def test_exception_class_that_fails_to_build(quiet: None) -> None:
    """An exception that needs arguments: what calling it raises is what the target gets, as with `raise Class`."""

    class Needs(Exception):
        def __init__(self, argument: object) -> None:
            super().__init__(argument)

    worker = Worker(sleeper)
    parked(worker, *SLEEP)
    handle = interrupt(worker, Needs)
    assert isinstance(worker.finish(handle).error, TypeError)
    assert handle.state == "delivered"


def test_attributes_of_an_exception_nobody_sent() -> None:
    error = ThreadInterrupted("own")
    assert (error.reason, error.source, error.interrupt_id) == (None, None, None)
    assert error.args == ("own",)


def test_exception_does_not_leak_into_the_class(quiet: None) -> None:
    for reason in ("one", "two"):
        worker = Worker(sleeper)
        parked(worker, *SLEEP)
        assert_interrupted(worker, interrupt(worker, reason=reason), reason)
    assert ThreadInterrupted.reason is None


# ---- S4: exactly once -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["sleep", "loop", "checkpoint", "lock"])
def test_consumed_when_raised(where: str, quiet: None) -> None:
    """The old library's second bug: whether it came again depended on where it was caught."""
    ready = threading.Event()
    lock = threading.Lock()
    lock.acquire()

    def block() -> None:
        ready.set()  # not before: pytest.raises() is a function that could be interrupted
        while where == "loop":
            pass
        while where == "checkpoint":
            check_interrupt()
        if where == "sleep":
            time.sleep(LONG)
        lock.acquire()

    def call() -> list[Any]:
        with pytest.raises(ThreadInterrupted):
            block()
        seen = [is_interrupted(), clear_interrupt()]
        time.sleep(0)
        threading.Lock().acquire()
        check_interrupt()
        return seen

    worker = Worker(call)
    ready.wait(GUARD)
    if where in ("sleep", "lock"):
        parked(worker, *SLEEP, *SEM)
    handle = interrupt(worker)
    assert worker.value() == [False, False]
    assert handle.state == "delivered"


# ---- S5, S6, S10, S12 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [threading.Thread, InterruptibleThread, threading.Timer])
def test_before_start(kind: Any, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.append(args.exc_value))
    ran: list[bool] = []
    thread = kind(0, partial(ran.append, True)) if kind is threading.Timer else kind(target=partial(ran.append, True))
    handle = interrupt(thread, reason="early")
    assert handle.state == "pending"
    assert is_interrupted(thread)
    assert interrupt(thread).id == handle.id
    thread.start()
    thread.join(GUARD)
    assert ran == []
    assert (handle.state, ended[0].reason) == ("delivered", "early")
    assert not is_interrupted(thread)


def test_before_start_and_cancelled(quiet: None) -> None:
    ran: list[bool] = []
    thread = threading.Thread(target=partial(ran.append, True))
    handle = interrupt(thread)
    other = interrupt(thread, Custom)
    assert handle.cancel() is True
    assert is_interrupted(thread)
    assert other.cancel() is True
    assert not is_interrupted(thread)
    thread.start()
    thread.join(GUARD)
    assert ran == [True]


def test_reused_ident_is_not_hit(quiet: None) -> None:
    """Thread idents are reused at once; an interrupt of the old Thread object never reaches the new thread."""
    reused = 0
    for _ in range(50):
        old = Worker(int)
        old.finish()
        wait_until(lambda old=old: not os.path.exists(f"/proc/self/task/{old.native_id}"), "the system is done with it, too")
        sent = threading.Event()
        new = Worker(partial(sent.wait, GUARD))
        parked(new, *SEM)
        handle = interrupt(old)
        reused += new.ident == old.ident
        assert handle.state == "discarded"
        sent.set()
        assert new.value() is True
    assert reused, "the platform did not reuse an ident: this test shows nothing"


def test_pending_at_the_end_is_discarded(quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()

        def call() -> None:
            _core.mask(2)  # and it is never taken off
            os.read(r, 1)

        worker = Worker(call)
        parked(worker, *READ)
        handle = interrupt(worker)
        waiter = Worker(handle.wait)
        parked(waiter, *SEM)
        os.write(w, b"x")
        worker.value()
        assert waiter.value() is True
        wait_until(lambda: handle.state == "discarded", "the interrupt is discarded")


@pytest.mark.parametrize("which", ["thread", "ident", "native_id"])
def test_main_thread_is_refused(which: str) -> None:
    main = threading.main_thread()
    target = main if which == "thread" else getattr(main, which)
    with pytest.raises(ValueError, match="main thread"):
        interrupt(target)
    with pytest.raises(ValueError, match="main thread"):
        Worker(partial(interrupt, target)).value()
    check_interrupt()
    assert not is_interrupted()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ThreadInterrupted),
        ({"interrupt_exc": Custom}, Custom),
        ({"legacy_keyboardinterrupt": True}, (ThreadInterrupted, KeyboardInterrupt)),
        ({"monkeypatch_socket": True}, ThreadInterrupted),
    ],
)
def test_default_exception(options: dict[str, Any], expected: Any, quiet: None) -> None:
    uninstall_patches()
    try:
        install_patches(**options)
        worker = Worker(sleeper)
        parked(worker, *SLEEP)
        error = worker.finish(interrupt(worker)).error
        for kind in expected if isinstance(expected, tuple) else (expected,):
            assert isinstance(error, kind)
        other = Worker(sleeper)
        parked(other, *SLEEP)
        assert type(other.finish(interrupt(other, exc=KeyError)).error) is KeyError
    finally:
        uninstall_patches()
        install_patches()
    worker = Worker(sleeper)
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker))


# ---- the rest ---------------------------------------------------------------------------------------------------------------------


def test_a_thread_may_interrupt_itself(quiet: None) -> None:
    def call() -> None:
        interrupt(threading.current_thread())
        while True:
            time.sleep(0)

    worker = Worker(call)
    assert type(worker.finish().error) is ThreadInterrupted


def test_ticker() -> None:
    with periodic_checkpoint(every=3) as ticker:
        assert [ticker.tick() for _ in range(7)] == [False, False, True, False, False, True, False]
    with periodic_checkpoint() as ticker:
        assert sum(ticker.tick() for _ in range(2500)) == 2
    with periodic_checkpoint(every=0) as ticker:
        assert ticker.tick() is True


def test_poll_interval_is_accepted() -> None:
    assert set_poll_interval(0.01) is None
    assert set_poll_interval(1) is None


def test_status() -> None:
    report = status()
    assert report["problems"] == []
    assert report["patches"] is report["installed"] is True
    assert not report["injection"].startswith("off")
    rows = dict(_core.rows())
    assert not [name for name, shape in rows.items() if shape.startswith("unknown")]
    assert rows["time.sleep"] == "swapped"
