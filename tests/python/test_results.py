"""What a call has given is not lost where the rest of its expression calls something else: the interrupt comes later."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from held_shapes import HELD, ROUNDS, run
from interruptible_threading import ThreadInterrupted, _core
from support import Worker


def at(*args: object, **kwargs: object) -> None:
    """An interrupt must not come where this begins."""


#: Where the beginning of something else is what counts, that calls this, which is no place for an interrupt.
setattr(at, "look", abs)  # noqa: B010


def seen_by(shape: str) -> list[Any]:
    """What see() was given of an item that was taken, the interrupt having been pending since."""
    r, w = os.pipe()
    seen: list[Any] = []
    os.write(w, b"item")
    me = threading.current_thread()

    def take() -> bytes:
        item = os.read(r, 4)
        _core.interrupt(me.ident or 0, 0, None, None)
        # Long enough for the library to ask the thread to look, at places behind calls only.
        sum(range(100_000))
        sum(range(100_000))
        sum(range(100_000))
        return item

    def see(*args: object, **kwargs: object) -> None:
        seen.append((args, kwargs))

    _core.uninterruptible(see.__code__)
    box = [b"0"]
    try:
        run(shape, {"at": at, "take": take, "see": see, "box": box})
        while True:
            pass
    except ThreadInterrupted:
        return seen
    finally:
        os.close(r)
        os.close(w)


@pytest.mark.parametrize("name", [name for name in HELD if name not in ROUNDS])
def test_not_lost(name: str) -> None:
    seen = Worker(lambda: seen_by(HELD[name])).value()
    assert seen, "lost"
