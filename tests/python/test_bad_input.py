"""Bad input: a clear error, and nothing has changed."""

from __future__ import annotations

import os
import select
import threading
import time
from functools import partial
from typing import Any

import interruptible_threading as it
import pytest
from interruptible_threading import InterruptibleThread, _core, interrupt
from support import SLEEP, Worker, assert_interrupted, parked


def snapshot() -> tuple[Any, ...]:
    status = {key: value for key, value in it.status().items() if not key.startswith(("monitor", "signal"))}
    return threading.Thread, threading.Thread.start, hash(time.sleep), os.open in os.supports_dir_fd, status


@pytest.fixture(autouse=True)
def _nothing_changes() -> Any:
    before = snapshot()
    yield
    assert snapshot() == before
    assert not it.is_interrupted()
    worker = Worker(partial(time.sleep, 3000))
    parked(worker, *SLEEP)
    assert_interrupted(worker, interrupt(worker))


@pytest.fixture
def sleeping() -> Any:
    """A parked worker that must not have noticed anything."""
    worker = Worker(partial(time.sleep, 3000))
    before = parked(worker, *SLEEP)
    yield worker
    after = parked(worker, *SLEEP)
    assert (after["parks"], after["pending"]) == (before["parks"], False)
    assert not it.is_interrupted(worker)
    assert_interrupted(worker, interrupt(worker))


@pytest.mark.parametrize("target", [None, "name", b"", 1.5, True, False, object(), int, [], threading.Lock(), threading.Thread])
def test_target_of_a_wrong_type(target: Any) -> None:
    with pytest.raises(TypeError, match="target must be"):
        interrupt(target)


@pytest.mark.parametrize("target", [0, -1, 1, 2**31 - 1, 2**63, 2**64 - 1, 2**64, -(2**70), 2**100, os.getppid()])
def test_unknown_number(target: int) -> None:
    with pytest.raises(ValueError, match="no running thread"):
        interrupt(target)


def test_number_of_a_finished_thread() -> None:
    worker = Worker(int)
    worker.finish()
    other = Worker(lambda: None, start=False)  # takes no ident
    assert other.ident is None
    assert worker.native_id is not None
    with pytest.raises(ValueError, match="no running thread"):
        interrupt(worker.native_id)


@pytest.mark.parametrize("exc", [1, "text", object(), object, int, ValueError.__init__, [ValueError], (ValueError,), type])
def test_no_exception(exc: Any, sleeping: Worker) -> None:
    with pytest.raises(TypeError, match="exc must be an exception"):
        interrupt(sleeping, exc)
    with pytest.raises(TypeError, match="exc must be an exception"):
        interrupt(threading.Thread(), exc=exc)


@pytest.mark.parametrize("arguments", [(), (1, 2, 3, 4)])
def test_number_of_arguments(arguments: Any) -> None:
    with pytest.raises(TypeError):
        interrupt(*arguments)


def test_thread_without_init() -> None:
    class Broken(threading.Thread):
        def __init__(self) -> None:
            pass

    class BrokenToo(InterruptibleThread):
        def __init__(self) -> None:
            pass

    with pytest.raises(ValueError, match="__init__"):
        interrupt(Broken())
    with pytest.raises(ValueError, match="__init__"):
        BrokenToo().interrupt()
    with pytest.raises(RuntimeError, match="__init__"):
        BrokenToo().start()


def test_start_twice() -> None:
    thread = InterruptibleThread(target=int)
    thread.start()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    thread.join()


@pytest.mark.parametrize("thread", ["name", 1.5, True, object(), [], threading.Thread])
def test_is_interrupted(thread: Any) -> None:
    with pytest.raises(TypeError, match="thread must be"):
        it.is_interrupted(thread)


@pytest.mark.parametrize("thread", [0, -1, 1, 2**63, 2**100])
def test_is_interrupted_of_nobody(thread: int) -> None:
    assert it.is_interrupted(thread) is False


def test_install_twice() -> None:
    with pytest.raises(ValueError, match="already installed"):
        it.install_patches()
    with pytest.raises(ValueError, match="already installed"):
        InterruptibleThread.install_patches(interrupt_exc=KeyError)


@pytest.mark.parametrize("exc", [None, 1, "ThreadInterrupted", ValueError(), int])
def test_default_that_is_no_exception_class(exc: Any) -> None:
    with pytest.raises(TypeError, match="interrupt_exc must be"):
        it.install_patches(interrupt_exc=exc)
    it.uninstall_patches()
    try:
        with pytest.raises(TypeError, match="interrupt_exc must be"):
            it.install_patches(interrupt_exc=exc)
        assert not it.status()["patches"]
        with pytest.raises(ValueError, match="not installed"):
            it.uninstall_patches()
    finally:
        it.install_patches()


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf"), float("-inf"), 1e30])
def test_sleep_of_a_bad_time(seconds: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        time.sleep(seconds)
    with pytest.raises((ValueError, OverflowError)):
        Worker(partial(time.sleep, seconds)).value()


@pytest.mark.parametrize("arguments", [(), (None,), ("1",), (1, 2), (b"",)])
def test_sleep_of_no_time(arguments: Any) -> None:
    with pytest.raises(TypeError):
        time.sleep(*arguments)
    with pytest.raises(TypeError):
        Worker(partial(time.sleep, *arguments)).value()


ACQUIRES: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = [
    ((False, 1), {}, ValueError),
    ((True, -2), {}, ValueError),
    ((), {"timeout": -0.5}, ValueError),
    ((True, 1e30), {}, OverflowError),
    ((True, float("nan")), {}, ValueError),
    ((True, "1"), {}, TypeError),
    ((True, 1, 2), {}, TypeError),
    ((), {"nonsense": 1}, TypeError),
    ((True,), {"blocking": True}, TypeError),
]


@pytest.mark.parametrize(("arguments", "keywords", "error"), ACQUIRES)
@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("held", [False, True])
def test_lock_arguments(kind: Any, held: bool, arguments: Any, keywords: Any, error: Any) -> None:
    """The wrappers leave errors to the original: the same ones, on a free lock and on a held one, in any thread."""
    lock = kind()
    if held:
        lock.acquire()
    with pytest.raises(error) as first:
        lock.acquire(*arguments, **keywords)
    with pytest.raises(error) as second:
        Worker(partial(lock.acquire, *arguments, **keywords)).value()
    assert str(first.value) == str(second.value)
    if held:
        lock.release()
    assert lock.acquire(False)


@pytest.mark.parametrize(
    "call",
    [lambda: os.read(-1, 1), lambda: select.select([-1], [], []), lambda: os.open("/nonexistent/file", 0), lambda: os.waitpid(-5, 0)],
)
def test_errors_of_calls_stay_their_own(call: Any) -> None:
    with pytest.raises((OSError, ValueError)) as first:
        call()
    with pytest.raises(type(first.value)) as second:
        Worker(call).value()
    assert str(first.value) == str(second.value)
    assert second.value.__context__ is None


@pytest.mark.parametrize("timeout", ["1", [], -5, float("nan"), 1e30])
def test_handle_wait(timeout: Any) -> None:
    thread = threading.Thread()
    handle = interrupt(thread)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        handle.wait(timeout)
    assert handle.state == "pending"
    assert handle.cancel()


@pytest.mark.parametrize("function", [None, 1, "function"])
@pytest.mark.parametrize("mask", [it.critical_section, it.deliver_on_blocking])
def test_mask_of_no_function(mask: Any, function: Any) -> None:
    with pytest.raises(TypeError, match="decorates a function"):
        mask()(function)


def test_mask_of_a_function_that_runs_later() -> None:
    def generator() -> Any:
        yield

    async def coroutine() -> None:
        pass

    async def asynchronous_generator() -> Any:
        yield

    for mask in (it.critical_section, it.deliver_on_blocking):
        for function in (generator, coroutine, asynchronous_generator):
            with pytest.raises(TypeError, match="inside it"):
                mask()(function)
    assert _core.masked() == 0


@pytest.mark.parametrize("function", [None, 1, int, len, partial(int), print])
def test_uninterruptible(function: Any) -> None:
    with pytest.raises(TypeError, match="written in Python"):
        it.uninterruptible(function)


@pytest.mark.parametrize("level", [0, 3, -1, 2**40, "1", None])
def test_mask_level(level: Any) -> None:
    for function in (_core.mask, _core.unmask):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            Worker(partial(function, level)).value()


def test_unmask_without_mask() -> None:
    with pytest.raises(RuntimeError, match=r"unmask\(\)"):
        Worker(partial(_core.unmask, 2)).value()


@pytest.mark.parametrize("every", ["often", None, [], float("nan")])
def test_checkpoint_period(every: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        it.periodic_checkpoint(every)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_poll_interval(seconds: Any, error: Any) -> None:
    with pytest.raises(error, match="poll interval"):
        it.set_poll_interval(seconds)


def test_attribute_of_threading_that_is_not_ours() -> None:
    with pytest.raises(AttributeError):
        InterruptibleThread.get_thread_cls_for_current_thread("Lock")
