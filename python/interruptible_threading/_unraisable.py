"""An interrupt that surfaces where Python cannot raise (in a finalizer, a callback) is recorded again, not printed.

Others put hooks there too: before ours or in its place, for a while (pytest, for each test) or for good, with or without
calling the one that was there. So ours is no single function with one predecessor, which could neither be put in twice nor be
trusted to be called: each time a new one is made, which knows the hook that it was put before.
"""

from __future__ import annotations

import sys
from typing import Any, Callable

from . import _core

_active = False


class _Hook:
    """One of ours. Those that are still in somebody's chain after uninstall() pass everything on."""

    def __init__(self, previous: Callable[[Any], object] | None) -> None:
        self.previous: Any = previous
        # At the end of the interpreter, when this module is empty, it is called still.
        self._pass_on = previous or sys.__unraisablehook__

    def __call__(self, unraisable: Any, /) -> None:
        exc = unraisable.exc_value
        if _active and exc is not None and _core.record_again(exc):
            return
        self._pass_on(unraisable)


def come_first() -> None:
    """Somebody is about to be interrupted: have our hook before the present one, if we are installed."""
    present = getattr(sys, "unraisablehook", None)  # it may be None, and even be deleted: that means the default one
    if _active and type(present) is not _Hook:  # any of ours will do
        sys.unraisablehook = _Hook(present)


def install() -> None:
    """Put our hook before the present one."""
    global _active
    _active = True
    come_first()


def uninstall() -> None:
    """Restore the previous hook; when somebody has put theirs before ours, it stays, and ours passes everything on."""
    global _active
    _active = False
    while type(present := getattr(sys, "unraisablehook", None)) is _Hook:
        sys.unraisablehook = present.previous
