"""multiprocessing.Condition.wait(), which came back without its lock, or lost a notification, when it was interrupted.

The same as _condition.py for a condition that processes share: there notify() posts a semaphore, and waits until each of those
that it has posted for says that it is awake.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any

from . import _core, _protected

_MODULE = "multiprocessing.synchronize"
# What the standard library's wait() uses. One that uses anything else is not known here, and stays.
_ASSERTS = {"_is_mine"}  # not with -O
_USES = {
    "_count",
    "_lock",
    "_semlock",
    "_sleeping_count",
    "_wait_semaphore",
    "_woken_count",
    "acquire",
    "range",
    "release",
}
_original: Any = None


def _wait(self: Any, timeout: float | None = None) -> bool:
    assert self._lock._semlock._is_mine(), "must acquire() condition before using wait()"
    self._sleeping_count.release()
    count = self._lock._semlock._count()
    for _ in range(count):
        self._lock.release()
    try:
        return self._wait_semaphore.acquire(True, timeout)  # type: ignore[no-any-return]
    except BaseException as exc:
        if _core.last_delivered_is(exc) and self._wait_semaphore.acquire(False):
            if _core.record_again(exc):
                return True
            self._wait_semaphore.release()
        raise
    finally:
        self._woken_count.release()
        _acquire_restore(self._lock, count)


def _acquire_restore(lock: Any, count: int) -> None:
    """By its name it is one of the functions whose waits are not broken."""
    for _ in range(count):
        lock.acquire()


def _replace() -> None:
    global _original
    module = sys.modules.get(_MODULE)
    cls: Any = getattr(module, "Condition", None)  # it may be None, to keep it from being imported, or be loading elsewhere
    method = getattr(cls, "__dict__", {}).get("wait")
    if (
        _original is None
        and isinstance(method, FunctionType)
        and method.__globals__ is vars(module)
        and method.__code__.co_filename == getattr(getattr(cls, "notify", None), "__code__", method.__code__).co_filename
        and set(method.__code__.co_names) - _ASSERTS == _USES
    ):
        _original = method
        cls.wait = functools.update_wrapper(_wait, method)


def install() -> None:
    """Replace the method where it is the known one, now or when its module is imported."""
    _protected.when_loaded(_MODULE, _replace)


def uninstall() -> None:
    """Put the original back, unless somebody has replaced ours; ours goes on being right in that case."""
    global _original
    _protected.when_loaded(_MODULE, None)
    module = sys.modules.get(_MODULE)
    if _original is not None and module is not None and vars(module.Condition).get("wait") is _wait:
        module.Condition.wait = _original
        _original = None
