"""Installing everything, and restoring everything."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from threading import Lock, Thread
from typing import Any, Callable

from . import _condition, _core, _family, _join, _mp_condition, _protected, _rehash, _thread_name, _unraisable
from ._exceptions import ThreadInterrupted, _ThreadInterruptedKeyboard, check_exception_class

_lock = Lock()
_undo: ExitStack | None = None
# Installed at interpreter start by the launcher, not by the program: the program may still install, once.
_by_launcher = False


def green_threads() -> str | None:
    """The library that has replaced this process's threads by its own, if one has."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and getattr(gevent, "saved", None):
        return "gevent"
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and getattr(eventlet, "already_patched", None):
        return "eventlet"
    return None


def _restore_builtins() -> None:
    swapped = _core.swapped_builtins()
    _core.uninstall()
    _rehash.rehash(swapped)


def _install_all(choose: Callable[[], type[Thread]]) -> ExitStack:
    # Whatever fails, what was done before it is undone.
    with ExitStack() as undo:
        _core.install()
        undo.callback(_restore_builtins)
        _rehash.rehash(_core.swapped_builtins())
        for part in (_protected, _join, _condition, _mp_condition, _family, _unraisable):
            undo.callback(part.uninstall)
            part.install()
        undo.callback(_thread_name.uninstall)
        _thread_name.install(choose)
        return undo.pop_all()


def install(
    choose: Callable[[], type[Thread]],
    *,
    interrupt_exc: type[BaseException] = ThreadInterrupted,
    legacy_keyboardinterrupt: bool = False,
    by_launcher: bool = False,
) -> None:
    """Install all patches; ``choose`` says what threading.Thread is for the calling thread."""
    global _by_launcher, _undo
    default = check_exception_class(interrupt_exc, "interrupt_exc")
    with _lock:
        if _undo is not None and not _by_launcher:
            raise ValueError("patches already installed")
        green = green_threads()
        if green is not None:
            raise RuntimeError(
                f"{green} has replaced this process's threads by its own, which cannot be interrupted this way: "
                f"use {green}'s timeouts, or do not let it patch threads"
            )
        if _undo is None:
            _undo = _install_all(choose)
        else:
            _thread_name.uninstall()
            _thread_name.install(choose)
        _by_launcher = by_launcher
        _core.set_default_exception(_ThreadInterruptedKeyboard if legacy_keyboardinterrupt else default)


def uninstall() -> None:
    """Restore what install() found; the default exception is ThreadInterrupted again."""
    global _by_launcher, _undo
    with _lock:
        if _undo is None:
            raise ValueError("patches not installed")
        undo, _undo, _by_launcher = _undo, None, False
        undo.close()
        _core.set_default_exception(ThreadInterrupted)


def installed() -> bool:
    """Whether the patches are in place."""
    return _undo is not None
