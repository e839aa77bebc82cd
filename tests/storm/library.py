"""Corners of the standard library in which C code calls Python code: each function here is one piece of work.

What Python code raises has to come out of the piece, wherever it is raised. C code that drops it loses an interrupt.
"""

from __future__ import annotations

import abc
import bisect
import codecs
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import gc
import heapq
import io
import itertools
import operator
import os
import pprint
import re
import string
import textwrap
import typing
import weakref
from collections.abc import Iterator
from typing import Any, Callable

PIECES: dict[str, Callable[[], object]] = {}


def piece(function: Callable[[], object]) -> Callable[[], object]:
    PIECES[function.__name__] = function
    return function


# ---- objects whose every method is in Python -----------------------------------------------------------------------------------


class Object:
    """Has what C code asks for by name."""

    def __init__(self) -> None:
        self.number = 1

    def __getstate__(self) -> dict[str, int]:
        return {"number": self.number}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.number = state["number"]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object)

    def __hash__(self) -> int:
        return hash(self.number)

    def __lt__(self, other: object) -> bool:
        return False

    def __index__(self) -> int:
        return self.number

    def __len__(self) -> int:
        return 3

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __length_hint__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])

    def __contains__(self, item: object) -> bool:
        return True

    def __call__(self) -> int:
        return 1

    def __add__(self, other: object) -> Object:
        return self

    __radd__ = __add__

    def __fspath__(self) -> str:
        return os.devnull

    def __bytes__(self) -> bytes:
        return b""

    def __format__(self, spec: str) -> str:
        return "formatted"

    def __str__(self) -> str:
        return "shown"

    def __repr__(self) -> str:
        return "represented"


class Attribute:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> int:
        return 1

    def __set__(self, instance: object, value: object) -> None:
        pass


class Meta(type):
    @classmethod
    def __prepare__(mcs, *args: Any, **kwargs: Any) -> dict[str, object]:
        return {}

    def __instancecheck__(cls, instance: object) -> bool:
        return False

    def __subclasscheck__(cls, subclass: type) -> bool:
        return False


class Zone(datetime.tzinfo):
    def utcoffset(self, when: Any) -> datetime.timedelta:
        return datetime.timedelta(0)

    dst = utcoffset

    def tzname(self, when: Any) -> str:
        return "zone"


@piece
def containers() -> None:
    numbers = {Object(): 1}
    numbers.get(Object()), Object() in numbers, numbers.setdefault(Object(), 2), {Object()} | {Object()}, numbers == {Object(): 1}
    collections.Counter([Object()]), [Object()].index(Object()), sorted([Object(), Object()]), max(Object(), Object())


@piece
def slots() -> None:
    it = Object()
    it + 1, 1 + it, 3 in it, list(it), it(), hash(it), os.stat(it), bytes(it), sum([it, it], it), [*it], range(it), [0, 1][it]
    hasattr(it, "nothing"), callable(it), isinstance(it, typing.Hashable), list(map(operator.index, [it])), operator.length_hint(it)


@piece
def text() -> None:
    text = f"{Object()} {Object()!s} {Object()!r}" + string.Template("$a ${b}").substitute(a=1, b=2)
    print(Object(), text, file=io.StringIO(), sep="", flush=True)
    str([Object(), {Object(): 1}]), "".join(map(str, [Object()])), string.Formatter().format("{a}", a=Object())
    re.sub("a", lambda match: match.group().upper(), "banana"), textwrap.wrap("a b c" * 20), pprint.pformat({"a": [1] * 30})


@piece
def classes() -> None:
    class Base(metaclass=Meta):
        one = Attribute()

        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)

        def __getattribute__(self, name: str) -> Any:
            return super().__getattribute__(name)

    class Derived(Base):
        two = Attribute()

    Derived().one, Derived().two, isinstance(1, Base), issubclass(int, Derived)
    dataclasses.make_dataclass("Data", ["a", "b"], order=True, frozen=True)(1, 2), enum.Enum("Color", "RED BLUE")


@piece
def abstract() -> None:
    class Base(abc.ABC):  # noqa: B024
        @classmethod
        def __subclasshook__(cls, other: type) -> Any:
            return NotImplemented

    Base.register(int), isinstance(1, Base), isinstance("", Base), issubclass(str, Base)


@piece
def references() -> None:
    class Target:
        pass

    target = Target()
    weakref.finalize(target, len, "")
    kept = weakref.WeakSet([target]), weakref.WeakKeyDictionary({target: 1}), weakref.WeakValueDictionary({1: target})
    kept += (weakref.ref(target, lambda ref: None),)  # type: ignore[assignment]
    ring: list[Any] = [target]
    ring.append(ring)
    del target, ring
    gc.collect(0)


def compare(a: int, b: int) -> int:
    return a - b


@piece
def functions() -> None:
    functools.lru_cache(None)(len)(Object()), functools.reduce(lambda a, b: a + b, range(5))
    sorted([3, 1, 2], key=functools.cmp_to_key(compare)), heapq.nsmallest(2, [3, 1], key=lambda x: x)
    functools.singledispatch(lambda it: it)(1), bisect.bisect([1, 2], 1), list(itertools.groupby([1, 1, 2], key=lambda x: x))
    list(zip(map(Object.__format__, [Object()], "x"), filter(lambda x: True, [1, 2]))), any(x for x in [0, 1])


@piece
def generators() -> None:
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            len("")

    def outer() -> Iterator[int]:
        yield from numbers()

    first = numbers()
    next(first)
    first.close()  # type: ignore[attr-defined]
    next(numbers())
    list(outer())
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.contextmanager(numbers_once)())
        stack.callback(len, "")


def numbers_once() -> Iterator[int]:
    yield 1


@piece
def dates() -> None:
    now = datetime.datetime.now(Zone())
    now.isoformat(), now.strftime("%Z %z"), now.astimezone(datetime.timezone.utc), now == now.replace(hour=1), hash(now)
    datetime.datetime.strptime("2020", "%Y")


@piece
def encodings() -> None:
    "ex\xe4mple.com".encode("idna"), b"xn--exmple-cua.com".decode("idna"), "ä".encode("punycode"), codecs.encode("abc", "rot13")
    "\ud800".encode("utf-8", "itr-question"), io.TextIOWrapper(io.BytesIO(b"abc"), encoding="idna").read()


codecs.register_error("itr-question", lambda error: ("?", error.end))  # type: ignore[attr-defined]
