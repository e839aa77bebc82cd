"""An interrupt that surfaces where Python cannot raise (in a finalizer, a callback) is recorded again, not printed."""

from __future__ import annotations

import sys
from typing import Any, Callable

from . import _core

_previous: Callable[[Any], object] | None = None
_active = False


def _hook(unraisable: Any, /) -> None:
    exc = unraisable.exc_value
    if _active and exc is not None and _core.record_again(exc):
        return
    (_previous or sys.__unraisablehook__)(unraisable)


def install() -> None:
    """Put our hook before the present one."""
    global _active, _previous
    # Still in somebody's chain since the last time: chaining it again would never end.
    if _previous is None:
        _previous = sys.unraisablehook
        sys.unraisablehook = _hook
    _active = True


def uninstall() -> None:
    """Restore the previous hook, or, when somebody has put theirs before ours, let ours pass everything on."""
    global _active, _previous
    _active = False
    if sys.unraisablehook is _hook and _previous is not None:
        sys.unraisablehook = _previous
        _previous = None
