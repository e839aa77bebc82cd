"""Time-outs of every size and kind that CPython takes, and its own errors for what it does not take."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from support import LONG, SEM, SLEEP, broken, run_script

context = multiprocessing.get_context("fork")


class Whole:
    """An integer of somebody else's, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > other)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < other)

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"


class Real:
    def __float__(self) -> float:
        return LONG

    def __repr__(self) -> str:
        return type(self).__name__


MONTHS = [5e6, 10**9, threading.TIMEOUT_MAX]
WHOLE = [Whole(int(LONG)), Whole(10**9)]
REAL = [Real(), Fraction(LONG), Decimal(LONG)]


def held(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize("timeout", MONTHS + WHOLE, ids=repr)
@pytest.mark.parametrize("call", ["positional", "keyword", "RLock", "SimpleQueue", "Event", "join"])
def test_a_wait_for_a_lock(call: str, timeout: Any) -> None:
    lock = held(threading.Lock())
    reentrant = held(threading.RLock())
    calls: dict[str, Any] = {
        "positional": partial(lock.acquire, True, timeout),
        "keyword": partial(lock.acquire, timeout=timeout),
        "RLock": partial(reentrant.acquire, timeout=timeout),
        "SimpleQueue": partial(queue.SimpleQueue().get, True, timeout),
        "Event": partial(threading.Event().wait, timeout),
        "join": partial(threading.main_thread().join, timeout),
    }
    if call == "join" and isinstance(timeout, Whole) and sys.version_info >= (3, 13):
        main = vars(threading.main_thread())
        calls[call] = partial(main["_os_thread_handle" if sys.version_info >= (3, 14) else "_handle"].join, timeout)
    broken(calls[call], *SEM)


@pytest.mark.parametrize("timeout", MONTHS + WHOLE + REAL, ids=repr)
def test_a_wait_for_a_process(timeout: Any) -> None:
    broken(partial(held(context.Lock()).acquire, True, timeout), *SEM)


@pytest.mark.parametrize("timeout", [5e6, 10**9, *WHOLE], ids=repr)
def test_a_sleep(timeout: Any) -> None:
    broken(partial(time.sleep, timeout), *SLEEP)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="locks take integers and floats only")
@pytest.mark.parametrize("timeout", REAL, ids=repr)
def test_any_real_number(timeout: Any) -> None:
    broken(partial(held(threading.Lock()).acquire, timeout=timeout), *SEM)


def test_errors_are_its_own() -> None:
    output = run_script(
        """
import queue, sys, threading, multiprocessing, warnings
from decimal import Decimal
from fractions import Fraction
import interruptible_threading as it
warnings.simplefilter("ignore")
class Bad:
    def __index__(self): raise KeyError("its own")
class Odd:
    def __index__(self): return -3
def held(lock):
    lock.acquire()
    return lock
class NoWait:
    def __bool__(self): return False
values = [None, "x", -1, -2, -0.5, 0, 0.0, 0.001, Bad(), Odd(), 10**30, float("inf"), float("nan"), threading.TIMEOUT_MAX * 2,
          Fraction(1, 1000), Decimal("0.001"), [], NoWait()]
forms = [((), dict(timeout=0.001)), ((True, 0.001), {}), ((1, 0.001), {}), ((False,), {}), ((False, 1), {}), ((0,), {}), ((True, 0.001, 3), {}),
         ((True, 0.001), dict(timeout=2)), ((True,), dict(blocking=True, timeout=0.001)), ((), dict(foo=1)), (("x", 0.001), {}),
         ((None,), {}), ((), dict(blocking=False)), ((), dict(blocking=False, timeout=5)), ((), dict(block=False)),
         ((NoWait(), 0.001), {}), ((2**40,  0.001), {}), ((Odd(), 0.001), {})]
forms += [((True, value), {}) for value in values[1:] if value not in (-1, -0.5)]
context = multiprocessing.get_context("fork")
def what(function, args, kwargs):
    try: return repr(function(*args, **kwargs))
    except BaseException as error: return repr(error)
def all_of_them():
    lock, rlock, mp = held(threading.Lock()), threading.RLock(), held(context.Lock())
    holder = threading.Thread(target=rlock.acquire); holder.start(); holder.join()
    functions = [lock.acquire, lock.__enter__, lock.acquire_lock, rlock.acquire, rlock.__enter__, mp.acquire, mp._semlock.__enter__,
                 queue.SimpleQueue().get]
    for function in functions:
        for args, kwargs in forms:
            if function.__name__ == "__enter__" and not (args or kwargs): continue
            if "SemLock" in str(function) and args[1:] == (threading.TIMEOUT_MAX * 2,): continue  # it takes that
            results.append((str(function).partition(" at ")[0], str(args), what(function, args, kwargs)))
def in_thread():
    results.clear()
    thread = threading.Thread(target=all_of_them); thread.start(); thread.join()
    return [(a, b.partition(" at ")[0], c) for a, b, c in results]
results = []
before = in_thread()
it.install_patches()
after = in_thread()
for one, other in zip(before, after):
    if one != other: print(one, "!=", other)
print(len(before) == len(after) > 200)
"""
    )
    assert output == "True\n"
