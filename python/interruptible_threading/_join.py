"""Thread.join() up to Python 3.12, where an exception in it could declare a running thread dead.

There join() waits by acquiring a lock that is released when the thread ends. When acquire() raises and the lock is locked,
the standard library takes it for its own: it releases it and marks the thread as stopped. An interrupt comes from an
acquire() that did not acquire: the lock is the running thread's.
"""

from __future__ import annotations

import sys
from threading import Thread
from typing import Any

from . import _core

_NAME = "_wait_for_tstate_lock"
_original: Any = None


def _wait_for_tstate_lock(self: Any, block: bool = True, timeout: float = -1) -> None:
    lock = self._tstate_lock
    if lock is None:
        assert self._is_stopped
        return
    try:
        if lock.acquire(block, timeout):
            lock.release()
            self._stop()
    except BaseException as exc:
        # An exception of another origin (a signal handler's) may come after the lock was taken: as before.
        if not _core.last_delivered_is(exc) and lock.locked():
            lock.release()
            self._stop()
        raise


def install() -> None:
    """Replace the method where it exists."""
    global _original
    if sys.version_info < (3, 13) and _original is None and hasattr(Thread, _NAME):
        _original = vars(Thread)[_NAME]
        setattr(Thread, _NAME, _wait_for_tstate_lock)


def uninstall() -> None:
    """Put the original back, unless somebody has replaced ours; ours goes on being right in that case."""
    global _original
    if _original is not None and vars(Thread).get(_NAME) is _wait_for_tstate_lock:
        setattr(Thread, _NAME, _original)
        _original = None
