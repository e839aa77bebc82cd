"""The exceptions an interrupt raises in its target."""

from __future__ import annotations


class ThreadInterrupted(BaseException):
    """Raised in a thread that another thread interrupted.

    Derives from BaseException, as KeyboardInterrupt and asyncio.CancelledError do, so that ``except Exception`` lets it
    through.
    """

    # Class attributes: an exception that a program raises itself has them too, and says "nobody".
    reason: object = None
    source: int | None = None
    interrupt_id: int | None = None


class _ThreadInterruptedKeyboard(ThreadInterrupted, KeyboardInterrupt):
    """What ``legacy_keyboardinterrupt=True`` delivers: handlers of either class catch it."""


# Pickles and tracebacks show the name users import it by.
ThreadInterrupted.__module__ = "interruptible_threading"
_ThreadInterruptedKeyboard.__module__ = "interruptible_threading"


def check_exception_class(cls: object, parameter: str) -> type[BaseException]:
    """``cls`` if it is an exception class, else a TypeError that names ``parameter``."""
    if isinstance(cls, type) and issubclass(cls, BaseException):
        return cls
    raise TypeError(f"{parameter} must be an exception class, such as ThreadInterrupted, not {cls!r}")


def check_exception(exc: object | None) -> None:
    """Let None, an exception class and an exception instance pass; TypeError for the rest."""
    if exc is None or isinstance(exc, BaseException) or (isinstance(exc, type) and issubclass(exc, BaseException)):
        return
    raise TypeError(f"exc must be an exception class or instance, or None for the default one, not {exc!r}")
