"""Whom to interrupt: a Thread, an ident or a native id, resolved without ever hitting a thread that reuses a number."""

from __future__ import annotations

import threading
from threading import Thread
from typing import Union

from . import _core, _protected, _unraisable
from ._exceptions import check_exception

# `Thread` is taken at import: inside an interruptible thread the attribute threading.Thread is another class.
ThreadLike = Union[Thread, int]

_MAIN_REFUSED = (
    "the main thread cannot be interrupted by another thread: use signal.raise_signal(signal.SIGINT) or "
    "_thread.interrupt_main(), or move the work into a thread of its own"
)


def running_thread(ident: int) -> Thread | None:
    """The Thread object of a running thread; None for one that Python did not start and nobody asked about."""
    # Not current_thread(): that one would make a dummy object for every foreign thread that comes along.
    active: dict[int, Thread] = vars(threading).get("_active", {})
    return active.get(ident)


def is_started(thread: Thread) -> bool:
    """Whether the thread runs or has run. One that start() is still bringing up counts as not started."""
    if not getattr(thread, "_initialized", True):
        raise ValueError(f"{type(thread).__name__}.__init__() did not call Thread.__init__()")
    # The ident is set a moment before, while is_alive() still says False: it cannot tell new from finished.
    return bool(vars(thread)["_started"].is_set())


def _prepare() -> None:
    """What others may have undone since the last interrupt, or the program has not installed."""
    if not _protected.finder_installed():
        _protected.protect_loaded()
    _unraisable.come_first()


def interrupt_thread(thread: Thread, exc: object | None, reason: object) -> _core.Handle | None:
    """Interrupt ``thread``; None when it has finished."""
    if thread is threading.main_thread():
        raise ValueError(_MAIN_REFUSED)
    _prepare()
    if not is_started(thread):
        handle = _core.prestart(thread, exc, reason)
        if not is_started(thread) or not _core.prestart_over(thread):
            return handle
        # It has started, and perhaps ended, in between: nobody takes anything from the table any more.
    ident = thread.ident
    if ident is None or not thread.is_alive():
        return None
    try:
        # The native id tells a thread that ended just now from one that was given its ident since.
        return _core.interrupt(ident, thread.native_id or 0, exc, reason)
    except LookupError:
        return None


def _resolve(number: int) -> tuple[int, int]:
    """(ident, native id or 0) of the running thread that ``number`` means; ValueError when there is none."""
    if number > 0:
        main = threading.main_thread()
        if number in (main.ident, main.native_id):
            raise ValueError(_MAIN_REFUSED)
        if _core.alive(number):
            thread = running_thread(number)
            return number, (thread.native_id or 0) if thread is not None else 0
        ident = _core.ident_of_native(number)
        # A thread that Python is done with keeps its number until the system is done with it, too.
        if ident and _core.alive(ident):
            return ident, number
        for thread in threading.enumerate():
            if thread.native_id == number and thread.ident is not None:
                return thread.ident, number
    raise ValueError(
        f"no running thread has the ident or native id {number}: pass the Thread object, which also knows when it has finished"
    )


def interrupt(target: ThreadLike, exc: type[BaseException] | BaseException | None = None, reason: object = None) -> _core.Handle:
    """Raise an exception in another thread, wherever it is blocked or running.

    ``target`` is any threading.Thread, an ident or a native id; ``exc`` an exception class or instance, by default what
    install_patches() was given; ``reason`` any object, which the exception carries. Returns at once, with a handle.
    """
    check_exception(exc)
    if isinstance(target, Thread):
        handle = interrupt_thread(target, exc, reason)
        return _core.discarded(exc, reason) if handle is None else handle
    if isinstance(target, bool) or not isinstance(target, int):
        raise TypeError(
            f"target must be a threading.Thread, a thread's ident or its native id, not {target!r}"
            + (": threading.current_thread() is the caller itself" if target is None else "")
        )
    ident, native_id = _resolve(target)
    _prepare()
    try:
        return _core.interrupt(ident, native_id, exc, reason)
    except LookupError:
        raise ValueError(f"the thread with the ident or native id {target} has just finished") from None
