"""Asking about interrupts without blocking."""

from __future__ import annotations

from threading import Thread, get_ident
from types import TracebackType

from . import _core
from ._targets import is_started

#: The C function itself: a wrapper would double its price in the loops it is meant for.
check_interrupt = _core.check_interrupt
interruptible_checkpoint = check_interrupt
clear_interrupt = _core.clear_interrupt


def is_interrupted(thread: Thread | int | None = None) -> bool:
    """Whether an interrupt is pending for ``thread`` (by default the caller). Never consumes it.

    False for a thread that has finished and for an unknown ident.
    """
    if thread is None:
        return _core.is_interrupted(get_ident())
    if isinstance(thread, Thread):
        if not is_started(thread):
            return _core.is_interrupted_prestart(thread)
        # Its ident may belong to another thread by now.
        return thread.ident is not None and thread.is_alive() and _core.is_interrupted(thread.ident)
    if isinstance(thread, bool) or not isinstance(thread, int):
        raise TypeError(f"thread must be a threading.Thread, an ident or None for the caller, not {thread!r}")
    return thread > 0 and _core.is_interrupted(thread)


class Ticker:
    """Counts the rounds of a loop and checks in every so many of them."""

    __slots__ = ("_every", "_ticks")

    def __init__(self, every: int) -> None:
        self._every = max(1, int(every))
        self._ticks = 0

    def tick(self) -> bool:
        """Count one round. True when this one checked; raises the interrupt when the check finds one."""
        self._ticks += 1
        if self._ticks < self._every:
            return False
        self._ticks = 0
        check_interrupt()
        return True


class periodic_checkpoint:
    """``with periodic_checkpoint(every=1000) as ck:`` gives a ticker; call ``ck.tick()`` once a round."""

    __slots__ = ("_ticker",)

    def __init__(self, every: int = 1000) -> None:
        self._ticker = Ticker(every)

    def __enter__(self) -> Ticker:
        return self._ticker

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        return None
