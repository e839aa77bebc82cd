"""asyncio.run() for a thread that may be interrupted: the interrupt cancels the root task, so everything unwinds."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from . import _core

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")


class _Root:
    """The root task of one run, and the interrupt that cancelled it."""

    def __init__(self) -> None:
        self.interrupt: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None) -> None:
        """From now on there is a task that can be cancelled."""
        self._loop, self._task = loop, task

    def detach(self) -> None:
        """The task is over: what comes now stays pending. Inside the loop, that shuts down, it would be logged and lost."""
        self._loop = self._task = None

    def take(self) -> bool:
        """Consume the pending interrupt, unless a mask holds it back. The last one is what run_interruptible() raises."""
        try:
            exc = _core.take()
        except BaseException as error:  # the exception's constructor has failed: that comes out in its place
            exc = error
        if exc is not None:
            self.interrupt = exc  # the task may have dealt with an earlier one
        return exc is not None

    def notify(self) -> None:
        """An interrupt was recorded, or a mask left with one pending. Any thread."""
        loop = self._loop
        if loop is None:
            return
        # RuntimeError: the loop is closed, the run is over, and the interrupt stays pending for what comes after it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        # In the loop's own thread. A masked interrupt is not taken; leaving the mask notifies again.
        task = self._task
        if task is not None and not task.done() and self.take():
            task.cancel()


def run_interruptible(coro: Coroutine[Any, Any, _T]) -> _T:
    """``asyncio.run(coro)``, whose interruption cancels the root task and is then raised here.

    ``finally`` and ``async with`` blocks run as for any cancellation. critical_section() in the task postpones it. A task
    that catches the cancellation and returns has dealt with the interrupt: its result is returned. What comes when the
    task is over and asyncio shuts down stays pending, and is raised by whatever the thread does next.
    """
    import asyncio

    if not asyncio.iscoroutine(coro):
        raise ValueError(f"a coroutine was expected, got {coro!r}")

    root = _Root()

    async def run() -> _T:
        root.attach(asyncio.get_running_loop(), asyncio.current_task())
        try:
            # One that came while the loop was made: like a task cancelled before its first step, nothing of it runs.
            if _core.is_interrupted(get_ident()) and root.take():
                coro.close()
                raise asyncio.CancelledError
            return await coro
        finally:
            root.detach()

    try:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("run_interruptible() cannot be called from a running event loop: await the coroutine instead")
        _core.check_interrupt()
        _core.set_redirect(root.notify)
    except BaseException:
        coro.close()
        raise
    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if root.interrupt is None:
            raise
    finally:
        # Not before: nothing is raised into the shutting down of the loop.
        _core.set_redirect(None)
    # Outside the except clause: the cancellation is none of its context.
    raise root.interrupt
