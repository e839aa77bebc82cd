"""Holding interrupts back: critical_section(), deliver_on_blocking(), uninterruptible."""

from __future__ import annotations

import functools
from types import CodeType, TracebackType
from typing import Any, Callable, ClassVar, TypeVar, cast

from . import _core

_F = TypeVar("_F", bound=Callable[..., Any])

# CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR: calling such a function runs none of its body.
_RUNS_LATER = 0x20 | 0x80 | 0x200

_ON_BLOCKING = 1
_NEVER = 2


class _Mask:
    """A mask of the calling thread: a context manager without state, hence re-entrant, reusable and shareable."""

    __slots__ = ()
    _level: ClassVar[int]

    def __enter__(self) -> None:
        _core.mask(self._level)

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # Raises what is pending when this was the outermost mask; the body's exception becomes its __context__.
        _core.unmask(self._level)

    def __call__(self, func: _F) -> _F:
        name = type(self).__name__
        if not callable(func):
            raise TypeError(f"@{name}() decorates a function, not {func!r}")
        code = getattr(func, "__code__", None)
        if code is not None and code.co_flags & _RUNS_LATER:
            raise TypeError(f"@{name}() would not cover the body of {func.__qualname__}(): write `with {name}():` inside it")

        @functools.wraps(func)
        def masked(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return cast(_F, masked)


class critical_section(_Mask):
    """Deliver nothing to the calling thread inside the block; the outermost exit raises what came meanwhile, once."""

    __slots__ = ()
    _level = _NEVER


class deliver_on_blocking(_Mask):
    """Deliver only at blocking calls and checkpoints inside the block, never between two instructions."""

    __slots__ = ()
    _level = _ON_BLOCKING


interrupts_disabled = critical_section


def uninterruptible(func: _F) -> _F:
    """Never cut into ``func``, or into anything it calls, between two instructions. Returns ``func`` itself.

    Blocking calls inside it still raise; critical_section() is what holds those back too.
    """
    # staticmethod and classmethod objects carry the function; a bound method passes its function's code on.
    code = getattr(getattr(func, "__func__", func), "__code__", None)
    if not isinstance(code, CodeType):
        raise TypeError(f"uninterruptible() marks a function written in Python, not {func!r}")
    _core.uninterruptible(code)
    return func
