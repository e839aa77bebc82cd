"""Loops in all their shapes, as text: each is put into a `try`, `finally` or `with` of the same function."""

from __future__ import annotations

import functools
import itertools
import textwrap
import threading
from typing import Any, Callable

from interruptible_threading import ThreadInterrupted, _core

#: delivery_experiments, section 2. `w` has the attributes `true`, `false`, `n` and `x`.
MEASURED = {
    "while ending in if": "while True:\n    if w.false:\n        w.x = 1",
    "while not attribute": "while not w.false: pass",
    "for with only if": "for i in range(BIG):\n    if i < 0:\n        w.x = 1",
    "while pass": "while 1:\n    pass",
}
#: The compiler of 3.11 and 3.12 leaves this function without any table: nothing can be known there.
LAST_ROW = {"while pass on one line": "while 1: pass"}
MORE = {
    "while attribute": "while w.true:\n    w.x += 1",
    "while comparison": "while w.x >= 0:\n    w.x += 1",
    "while else": "while w.true:\n    w.x = 2\nelse:\n    w.x = 3",
    "while and or": "while w.true and (w.true or w.false):\n    pass",
    "for count": "for i in itertools.count():\n    w.x = i",
    "for continue": "for i in itertools.count():\n    if i % 2:\n        continue\n    w.x = i",
    "while continue": "while True:\n    if w.true:\n        continue\n    w.x = 1",
    "nested for": "for i in itertools.count():\n    for j in range(3):\n        if j:\n            continue\n        w.x = j",
    "break of inner": "while True:\n    for j in range(9):\n        if j == 3:\n            break\n    else:\n        w.x = 1",
    "C calls": "while True:\n    len('abc')",
    "slow C calls": "while True:\n    sum(NUMBERS)",
    "C calls without the GIL": "while True:\n    zlib.crc32(LARGE)",
    "Python calls": "while True:\n    work(w)",
    "recursion": "while True:\n    deep(20)",
    "partial": "while True:\n    functools.partial(work, w)()",
    "cached": "while True:\n    cached.cache_clear()\n    cached(w)",
    "sorted": "while True:\n    sorted(range(50), key=lambda v: -v)",
    "list comprehension": "[i for i in itertools.count() if i < 0]",
    "set comprehension": "{i for i in itertools.count() if i < 0}",
    "dict comprehension": "{i: i for i in itertools.count() if i < 0}",
    "generator expression": "sum(1 for i in itertools.count() if i >= 0)",
    "all of generator": "all(i >= 0 for i in itertools.count())",
    "generator": "for i in numbers():\n    w.x = i",
    "generator by next": "g = numbers()\nwhile True:\n    next(g)",
    "yield from": "for i in delegating():\n    w.x = i",
    "consume by C": "collections.deque(numbers(), 0)",
    "inner try": "while True:\n    try:\n        w.x = 1\n    except ValueError:\n        w.x = 2",
    "inner raise": "while True:\n    try:\n        raise ValueError\n    except ValueError:\n        continue",
    "inner with": "while True:\n    with contextlib.suppress(ValueError):\n        w.x = 1",
    "inner lock": "while True:\n    with w.lock:\n        w.x = 1",
    "in except": "try:\n    raise ValueError\nexcept ValueError:\n    while True:\n        if w.false:\n            w.x = 1",
    "in finally": "try:\n    w.x = 1\nfinally:\n    while True:\n        if w.false:\n            w.x = 1",
    "in else": "try:\n    w.x = 1\nexcept ValueError:\n    pass\nelse:\n    while not w.false:\n        pass",
    "in with": "with contextlib.suppress(ValueError):\n    while True:\n        if w.false:\n            w.x = 1",
    "walrus": "while (y := w.true):\n    w.x = y",
    "unpacking": "for a, (b, c) in zip(itertools.count(), itertools.repeat((1, 2))):\n    w.x = b",
    "globals": "while GLOBAL_TRUE:\n    pass",
    "long body": "while True:\n" + "    w.x = 1; w.n = 2; w.x = w.n\n" * 300,
    "dict": "while True:\n    for k, v in {1: 2, 3: 4}.items():\n        w.x = k",
    "string building": "s = ''\nwhile True:\n    s = s[-100:] + 'x'",
    "attribute error": "while True:\n    getattr(w, 'missing', None)\n    hasattr(w, 'missing')",
    "property": "while w.property_true:\n    pass",
    "del": "while True:\n    y = w.x\n    del y",
    "assert": "while True:\n    assert w.true",
    "is none": "while w.none is None:\n    pass",
    "is not none": "y = w\nwhile y is not None:\n    y = y.me",
}

#: How the loop is guarded. {loop} is indented as it stands; `w.in_try()` comes when an interrupt has to be caught.
GUARDS = {
    "try": """
        def shape(w):
            try:
                w.ready = True
                {loop}
            except ThreadInterrupted:
                w.ready = False
                w.caught += 1
        """,
    "finally": """
        def shape(w):
            try:
                w.ready = True
                {loop}
            finally:
                w.ready = False
                w.finals += 1
        """,
    "with": """
        def shape(w):
            with w.manager:
                w.ready = True
                {loop}
        """,
    "nested try": """
        def shape(w):
            try:
                try:
                    w.ready = True
                    {loop}
                finally:
                    w.ready = False
                    w.finals += 1
            except ThreadInterrupted:
                w.caught += 1
        """,
    "try in for": """
        def shape(w):
            for turn in range(1):
                try:
                    w.ready = True
                    {loop}
                except ValueError:
                    w.wrong += 1
                except ThreadInterrupted:
                    w.ready = False
                    w.caught += 1
        """,
    "with in try in with": """
        def shape(w):
            with contextlib.suppress(KeyError):
                try:
                    with w.manager:
                        w.ready = True
                        {loop}
                except ThreadInterrupted:
                    w.caught += 1
        """,
    "closure": """
        def shape(w):
            def inner():
                try:
                    w.ready = True
                    {loop}
                except ThreadInterrupted:
                    w.ready = False
                    w.caught += 1
            inner()
        """,
    "decorated": """
        @decorate
        def shape(w):
            try:
                w.ready = True
                {loop}
            except ThreadInterrupted:
                w.ready = False
                w.caught += 1
        """,
    "generator": """
        def steps(w):
            try:
                w.ready = True
                yield 1
                {loop}
            except ThreadInterrupted:
                w.ready = False
                w.caught += 1

        def shape(w):
            g = steps(w)
            next(g)
            next(g, None)
        """,
    "coroutine": """
        async def steps(w):
            try:
                async with w.manager:
                    async for i in ticks():
                        w.ready = True
                        {loop}
            except ThreadInterrupted:
                w.caught += 1

        def shape(w):
            try:
                steps(w).send(None)
            except StopIteration:
                pass
        """,
    "except": """
        def shape(w):
            try:
                raise KeyError
            except KeyError:
                try:
                    w.ready = True
                    {loop}
                except ThreadInterrupted:
                    w.ready = False
                    w.caught += 1
        """,
}


class Manager:
    """A context manager that counts its exits and keeps the interrupt from going on."""

    def __init__(self, w: Witness) -> None:
        self.w = w

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        self.w.ready = False
        self.w.exits += 1
        return kind is ThreadInterrupted and self.w.swallow

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *rest: Any) -> bool:
        return self.__exit__(*rest)


class Witness:
    """What a shape works with, and what it saw."""

    true, false, none, property_true = True, False, None, property(lambda self: True)

    def __init__(self) -> None:
        self.ready = False
        self.caught = self.finals = self.exits = self.wrong = 0
        self.x = self.n = 0
        self.swallow = False
        self.me = self
        self.lock = threading.Lock()
        self.manager = Manager(self)


def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Two wrappers around it, one of them from contextlib."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    import contextlib

    class Context(contextlib.ContextDecorator):
        def __enter__(self) -> None:
            pass

        def __exit__(self, *rest: object) -> None:
            pass

    return Context()(wrapper)


HELPERS = """
import collections, contextlib, functools, itertools, zlib
BIG = 10**15
NUMBERS = list(range(20000))
LARGE = bytes(200000)
GLOBAL_TRUE = True

def work(w):
    w.x = 1

def deep(n):
    return deep(n - 1) if n else 0

@functools.lru_cache(None)
def cached(w):
    return w.x

def numbers():
    i = 0
    while True:
        yield i
        i += 1

def delegating():
    yield from numbers()

async def ticks():
    yield 1
"""


def build(loop: str, guard: str) -> Callable[[Witness], None]:
    """The function ``shape(w)`` with this loop in this guard."""
    template = textwrap.dedent(guard)
    line = next(line for line in template.splitlines() if "{loop}" in line)
    indent = line[: line.index("{")]
    source = template.replace(line, textwrap.indent(loop, indent)).replace(indent * 2 + "{loop}", "")
    namespace: dict[str, Any] = {"ThreadInterrupted": ThreadInterrupted, "decorate": decorate, "itertools": itertools}
    exec(compile(HELPERS + source, f"<{loop[:30]}>", "exec"), namespace)
    shape: Callable[[Witness], None] = namespace["shape"]
    return shape


class Runner(threading.Thread):
    """Runs a shape again and again. The next interrupt may come when ``turn`` is odd and ``w.ready``: it is inside the
    guard. A mask holds back what comes elsewhere."""

    def __init__(self, shape: Callable[[Witness], None], turns: int, around: Any = None, swallow: bool = False) -> None:
        super().__init__(daemon=True)
        self.w = Witness()
        self.w.swallow = swallow
        self.shape = shape
        self.turns = turns
        self.turn = 0
        self.escaped = 0
        self.around = around
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            if self.around is None:
                self.rounds()
            else:
                self.around(self.rounds)
        except BaseException as error:
            self.failure = error

    def rounds(self) -> None:
        _core.mask(2)
        while self.turn < self.turns:
            try:
                _core.unmask(2)
                self.shape(self.w)
                _core.mask(2)
            except ThreadInterrupted:
                _core.mask(2)
                self.escaped += 1
            self.w.ready = False
            self.turn += 1
        _core.unmask(2)
