"""threading.Condition.wait(), where a notification was lost that came together with an interrupt.

An interrupt is raised out of the wait at once, and wait() takes the condition's lock before it passes it on. Whoever holds that
lock meanwhile may notify this very waiter, which is still in line: its notification is then nobody's, and another waiter sleeps
on. A wait that has been notified is a call that has completed: it returns True, and the interrupt is pending again.
"""

from __future__ import annotations

import functools
import threading
from threading import Condition
from types import FunctionType
from typing import Any

from . import _core

_NAME = "wait"
# What the standard library's wait() uses. One that uses anything else is not known here, and stays.
_USES = {
    "RuntimeError",
    "ValueError",
    "_acquire_restore",
    "_allocate_lock",
    "_is_owned",
    "_release_save",
    "_waiters",
    "acquire",
    "append",
    "remove",
}
#: Its variables: the lock that stands in line, and what is there from when the condition's lock has been given up.
_WAITER, _GIVEN_UP = "waiter", "saved_state"


def _is_known(method: object) -> bool:
    """Whether it is the standard library's, and not what a program has put there."""
    return (
        isinstance(method, FunctionType)
        and method.__globals__ is vars(threading)
        and method.__code__.co_filename == getattr(Condition.notify, "__code__", method.__code__).co_filename
        and set(method.__code__.co_names) == _USES
        and {_WAITER, _GIVEN_UP} <= set(method.__code__.co_varnames)
    )


def _is_notified(original: Any, exc: BaseException) -> bool:
    """Has the wait that raised this been notified? Only who holds the condition's lock does that, and it is held again."""
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_frame.f_code is not original.__code__:
        traceback = traceback.tb_next
    variables = {} if traceback is None else traceback.tb_frame.f_locals
    return _GIVEN_UP in variables and not variables[_WAITER].locked()


def _wrapper(original: Any) -> Any:
    @functools.wraps(original)
    def wait(self: Any, timeout: Any = None) -> Any:
        try:
            return original(self, timeout)
        except BaseException as exc:
            if _is_notified(original, exc) and _core.record_again(exc):
                return True
            raise

    return wait


_original: Any = None
_ours: Any = None


def install() -> None:
    """Replace the method where it is the known one."""
    global _original, _ours
    present = vars(Condition).get(_NAME)
    if present is not _ours and _is_known(present):
        _original, _ours = present, _wrapper(present)
        setattr(Condition, _NAME, _ours)


def uninstall() -> None:
    """Put the original back, unless somebody has replaced ours; ours goes on being right in that case."""
    if _ours is not None and vars(Condition).get(_NAME) is _ours:
        setattr(Condition, _NAME, _original)
