"""Code that never loops but calls itself again and again is interrupted too."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, interrupt
from stress_support import GUARD, Books, Victim, count
from support import Worker

#: So many levels, each with two calls of the next: more than anybody waits for.
DEEP = 200


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


class Tree:
    """One level of it is as good as all."""

    def __init__(self) -> None:
        self.left = self.right = self
        self.children = [self, self]

    def height(self, n: int) -> int:
        if n == 0:
            return 0
        return 1 + max(self.left.height(n - 1), self.right.height(n - 1))

    def __add__(self, n: int) -> int:
        return 0 if n == 0 else (self + (n - 1)) + (self.right + (n - 1))


TREE = Tree()


def size(tree: object, n: int) -> int:
    if isinstance(tree, Tree) and n > 0:
        return size(tree.left, n - 1) + size(tree.right, n - 1)
    return 1


def even(n: int) -> bool:
    if n == 0:
        return True
    return odd(n - 1) or odd(n - 1)


def odd(n: int) -> bool:
    if n == 0:
        return False
    return even(n - 1) and even(n - 1)


def by_keyword(*, n: int, step: int = 1) -> int:
    if n <= 0:
        return 1
    return by_keyword(n=n - step, step=step) + by_keyword(n=n - step)


def starred(*args: int) -> int:
    n, *rest = args
    if n <= 0:
        return 1
    return starred(n - 1, *rest) + starred(*(n - 1, *rest))


def traced(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        return function(*args, **kwargs)

    return wrapper


@traced
def decorated(n: int) -> int:
    return 1 if n <= 0 else decorated(n - 1) + decorated(n - 1)


def leaves(tree: Tree, n: int) -> Iterator[int]:
    if n <= 0:
        return
    yield from leaves(tree.left, n - 1)
    yield from leaves(tree.right, n - 1)


def walk(tree: Tree, n: int) -> Iterator[int]:
    """Nothing but generators' beginnings: nobody ever gets a value."""
    if n > 0:
        for value in walk(tree.left, n - 1):
            yield value
        for value in walk(tree.right, n - 1):
            yield value


async def awaiting(n: int) -> int:
    return 1 if n <= 0 else await awaiting(n - 1) + await awaiting(n - 1)


def run_coroutine() -> None:
    try:
        awaiting(DEEP).send(None)
    except StopIteration:
        pass


def comprehension(n: int) -> int:
    return 1 if n <= 0 else sum([comprehension(n - step) for step in (1, 1)])


def expression(n: int) -> int:
    return 1 if n <= 0 else sum(expression(n - step) for step in (1, 1))


def mapped(n: int) -> int:
    """What the call of map() gives is on the stack all the time."""
    return 1 if n <= 0 else sum(map(mapped, [n - 1, n - 1]))


def key(n: int) -> int:
    return 1 if n <= 0 else max([n - 1, n - 1], key=key)


def argument_is_a_result(n: int) -> int:
    return 1 if n <= 0 else argument_is_a_result(int(n) - 1) + argument_is_a_result(int(n) - 1)


def conditional(tree: object, n: int) -> int:
    return conditional(tree, n - 1) + conditional(tree, n - 1) if n > 0 and callable(tree) is False else 1


def in_try(n: int) -> int:
    if n <= 0:
        raise KeyError
    try:
        return in_try(n - 1)
    except KeyError:
        return in_try(n - 1)


class Manager:
    def __enter__(self) -> int:
        return 1

    def __exit__(self, *rest: object) -> None:
        return None


def in_with(n: int) -> int:
    if n <= 0:
        return 1
    with Manager() as one:
        return in_with(n - one) + in_with(n - one)


def in_callback(n: int) -> int:
    return 1 if n <= 0 else functools.reduce(lambda a, b: in_callback(n - 1), [1, 2, 3])


SHAPES: dict[str, Callable[[], Any]] = {
    "fib": lambda: fib(DEEP),
    "tree": lambda: size(TREE, DEEP),
    "method": lambda: TREE.height(DEEP),
    "operator": lambda: TREE + DEEP,
    "mutual": lambda: even(DEEP),
    "keyword": lambda: by_keyword(n=DEEP),
    "starred": lambda: starred(DEEP, 1, 2),
    "decorated": lambda: decorated(DEEP),
    "yield from": lambda: list(leaves(TREE, DEEP)),
    "generators": lambda: list(walk(TREE, DEEP)),
    "await": run_coroutine,
    "comprehension": lambda: comprehension(DEEP),
    "generator expression": lambda: expression(DEEP),
    "map": lambda: mapped(DEEP),
    "key": lambda: key(DEEP),
    "argument": lambda: argument_is_a_result(DEEP),
    "conditional": lambda: conditional(TREE, DEEP),
    "try": lambda: in_try(DEEP),
    "with": lambda: in_with(DEEP),
    "callback": lambda: in_callback(DEEP),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_interrupted(shape: str) -> None:
    """From outside, while it runs."""
    begun = threading.Event()

    def call() -> Any:
        begun.set()
        return SHAPES[shape]()

    worker = Worker(call)
    assert begun.wait(GUARD)
    handle = interrupt(worker)
    error = worker.finish(handle).error
    assert type(error) is ThreadInterrupted, repr(error)
    assert error.interrupt_id == handle.id
    assert handle.state == "delivered"


@pytest.mark.parametrize("shape", ["fib", "tree", "yield from", "argument"])
def test_again_and_again(shape: str) -> None:
    """Wherever it stands: each is delivered once."""
    victim = Victim(lambda victim: SHAPES[shape]())
    books = Books(victim)
    for _ in range(count(20)):
        books.wait(books.interrupt(victim), victim)
    books.stop()
    assert books.balance() >= count(20)
