"""InterruptibleThread: a Thread with an interrupt() method."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Coroutine
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from . import _aio, _family, _patches, _targets
from ._exceptions import ThreadInterrupted

_T = TypeVar("_T")


class InterruptibleThread(Thread):
    """A threading.Thread that can be interrupted by method call, and that knows the thread that made it.

    Any other Thread can be interrupted too, with interrupt(thread).
    """

    if not TYPE_CHECKING:  # for type checkers, and for people, the constructor is Thread's, whatever this version's is

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            parent = _family.current()
            self._interruptible_parent = weakref.ref(parent) if parent is not None else None

    # What a subclass has that forgot to call __init__: start() then says so.
    _interruptible_parent: weakref.ref[Thread] | None = None

    def start(self) -> None:
        """Start the thread's activity. RuntimeError when called more than once."""
        parent = self._interruptible_parent
        _family.adopt(parent() if parent is not None else None, self)
        super().start()

    def interrupt(self, recursive: bool = False) -> None:
        """Raise the default exception in this thread; a second call while it is pending changes nothing.

        Before start(): raised in place of run(). ``recursive``: the threads it started come first, those they started
        before them, whatever their class. ValueError when this thread has finished.
        """
        if recursive:
            _family.descendants_first(self, _interrupt_unless_finished)
        if _targets.interrupt_thread(self, None, None) is None:
            raise ValueError(f"no such thread: {self.name!r} has finished; interruptible_threading.interrupt() lets that pass")

    @classmethod
    def run_interruptible(cls, coro: Coroutine[Any, Any, _T]) -> _T:
        """``asyncio.run(coro)``, whose interruption cancels the root task and is then raised here."""
        return _aio.run_interruptible(coro)

    @classmethod
    def install_patches(
        cls,
        interrupt_exc: type[BaseException] = ThreadInterrupted,
        legacy_keyboardinterrupt: bool = False,
        monkeypatch_socket: bool = False,
    ) -> None:
        """Make every blocking call interruptible, and threading.Thread this class inside interruptible threads.

        ``interrupt_exc`` is raised by default; ``legacy_keyboardinterrupt`` raises one that is both a ThreadInterrupted
        and a KeyboardInterrupt instead. ``monkeypatch_socket`` has no effect: sockets are always covered.
        ValueError when installed already; RuntimeError in a process patched by gevent or eventlet.
        """
        _patches.install(
            lambda: cls.get_thread_cls_for_current_thread("Thread"),
            interrupt_exc=interrupt_exc,
            legacy_keyboardinterrupt=legacy_keyboardinterrupt,
        )

    @classmethod
    def uninstall_patches(cls) -> None:
        """Restore everything, the default exception too. ValueError when not installed."""
        _patches.uninstall()

    @classmethod
    def get_thread_cls_for_current_thread(cls, item: str) -> type[Thread]:
        """What ``threading.Thread`` is for the calling thread: this class in an interruptible thread, else the plain one."""
        if item != "Thread":
            raise AttributeError(f"module 'threading' has no attribute {item!r}")
        # By class, not by a flag that run() sets: a subclass may override run() without calling ours.
        running = _targets.running_thread(threading.get_ident())
        return cls if isinstance(running, InterruptibleThread) else Thread


def _interrupt_unless_finished(thread: Thread) -> None:
    _targets.interrupt_thread(thread, None, None)


# Shown, and pickled, under the name users import it by.
InterruptibleThread.__module__ = "interruptible_threading"
