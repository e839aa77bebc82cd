"""Where the library finds a call's result on the value stack: in the frame of whoever calls at(), in each shape."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
from held_shapes import FREE, HELD, run
from interruptible_threading import _core


def holds(code: CodeType, lasti: int) -> bool:
    """Whether the library finds a result on the stack of a frame that stands there, in a call."""
    held = _core.held(code)
    unit = lasti // 2
    while held[unit] == ord("-"):  # behind a call its frame may stand at the end of the cache
        unit -= 1
    return held[unit] == ord("h")


class Look:
    """at(): notes whether its caller holds a result."""

    def __init__(self) -> None:
        self.looks: list[bool] = []

    def __call__(self, *args: object, **kwargs: object) -> None:
        self.look(2)

    def look(self, depth: int) -> None:
        frame = sys._getframe(depth)
        self.looks.append(holds(frame.f_code, frame.f_lasti))


def examine(shape: str) -> list[bool]:
    """Whether a result was held at each at()."""
    box = [b"0"]
    seen: list[Any] = []
    look = Look()

    def take() -> bytes:
        box.append(b"item")
        return b"item"

    def see(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    scope: dict[str, Any] = {"at": look, "take": take, "see": see, "box": box}
    run(shape, scope)
    return look.looks


@pytest.mark.parametrize("shape", HELD.values(), ids=HELD)
def test_held(shape: str) -> None:
    looks = examine(shape)
    assert looks
    assert all(looks), looks


@pytest.mark.parametrize("shape", FREE.values(), ids=FREE)
def test_free(shape: str) -> None:
    looks = examine(shape)
    assert looks
    assert not any(looks), looks


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def test_understood() -> None:
    """Whatever the compiler makes of the standard library. What is not understood counts as held everywhere."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    n = 0
    for name in sorted(file for file in files if file and file.endswith(".py")):
        with open(name, "rb") as file:
            source = file.read()
        for code in codes(compile(source, name, "exec", dont_inherit=True)):
            assert len(_core.held(code)) == len(code.co_code) // 2
            n += 1
    assert n > 1000


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="code object"):
        _core.held(len)  # type: ignore[arg-type]
