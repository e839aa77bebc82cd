"""An interrupt that hits a loop is caught by the `try`, `finally` or `with` that the source shows around it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
from interruptible_threading import interrupt
from loop_shapes import GUARDS, LAST_ROW, MEASURED, MORE, Runner, build
from native_support import library
from stress_support import count, until

LOOPS = {**MEASURED, **LAST_ROW, **MORE}
#: No entry in the table anywhere: an interrupt escapes, as Ctrl-C does.
HOPELESS = sys.version_info[:2] in ((3, 11), (3, 12))


def drive(runner: Runner) -> list[int]:
    """One interrupt at a time, each when the target is inside its guard. Returns their numbers."""
    numbers = []
    for turn in range(runner.turns):

        def inside(turn: int = turn) -> Any:
            return (runner.turn == turn and runner.w.ready) or not runner.is_alive()

        until(inside, lambda: f"turn {turn}")
        assert runner.is_alive(), f"ended: {runner.failure!r}"
        handle = interrupt(runner)
        numbers.append(handle.id)
        until(lambda turn=turn: runner.turn > turn, handle.explain)
        assert handle.state == "delivered"
    runner.join()
    assert runner.failure is None
    assert len(set(numbers)) == runner.turns
    return numbers


def check(runner: Runner, guard: str, turns: int) -> None:
    """The guard has seen each interrupt once."""
    w = runner.w
    caught = turns if "except ThreadInterrupted" in GUARDS[guard] else 0
    if caught and "manager" in GUARDS[guard] and w.swallow:
        caught = 0
    assert w.wrong == 0
    assert runner.escaped == (0 if caught or w.swallow else turns)
    assert w.caught == caught
    assert w.finals == (turns if "finally" in GUARDS[guard] else 0)
    assert w.exits == (turns if "manager" in GUARDS[guard] else 0)


#: Here 3.10 never looks whether another thread wants to run: whatever follows a jump to a SETUP_FINALLY, it is no check.
DEAF = {"inner try"} if sys.version_info[:2] == (3, 10) else set()


def run(loop: str, guard: str, turns: int, *, around: Any = None, swallow: bool = False) -> Runner:
    if loop in DEAF:
        pytest.skip("this interpreter would never let another thread run")
    shape = build(LOOPS[loop], GUARDS[guard])
    runner = Runner(shape, turns, around, swallow)
    drive(runner)
    if loop in LAST_ROW and HOPELESS:
        return runner
    check(runner, guard, turns)
    return runner


@pytest.mark.parametrize("guard", ["try", "finally", "with"])
@pytest.mark.parametrize("loop", [*MEASURED, *LAST_ROW])
def test_measured(loop: str, guard: str) -> None:
    """The loops that Ctrl-C escapes from on one version or another."""
    run(loop, guard, count(30))


@pytest.mark.parametrize("guard", ["try", "finally", "with"])
@pytest.mark.parametrize("loop", MORE)
def test_more(loop: str, guard: str) -> None:
    """Any other loop."""
    run(loop, guard, count(3))


@pytest.mark.parametrize(
    "loop", [*MEASURED, "inner try", "in finally", "for continue", "C calls", "Python calls", "generator", "long body"]
)
@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard not in ("try", "finally", "with")])
def test_nested(loop: str, guard: str) -> None:
    """Guards in guards, generators, coroutines, closures, decorators."""
    run(loop, guard, count(3))


@pytest.mark.parametrize("guard", ["with", "with in try in with", "coroutine"])
@pytest.mark.parametrize("loop", MEASURED)
def test_swallowed_by_exit(loop: str, guard: str) -> None:
    """__exit__ may keep the interrupt for itself."""
    run(loop, guard, count(5), swallow=True)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="up to 3.10 an armed exception's class is another one")
def test_swallowed_by_exit_on_a_busy_machine() -> None:
    """A thread that gets no processor for a while is not taken for one that comes to no line."""
    stop_for_a_while = ctypes.PyDLL(library()._name).stop_for_a_while  # with the GIL, for which the thread waits
    runner = Runner(build(LOOPS["while pass"], GUARDS["with"]), count(3), swallow=True)
    for turn in range(runner.turns):
        until(lambda turn=turn: runner.turn == turn and runner.w.ready, f"turn {turn}")
        assert stop_for_a_while(ctypes.c_ulong(runner.ident or 0), 60) == 0
        handle = interrupt(runner)
        until(lambda turn=turn: runner.turn > turn, handle.explain)
    runner.join()
    assert runner.failure is None
    check(runner, "with", runner.turns)


def parse_table(code: Any) -> list[tuple[int, int, int, int]]:
    """(start, end, target, depth and lasti) in code units, as Objects/exception_handling_notes.txt describes it."""
    data = iter(code.co_exceptiontable)

    def number(first: int) -> int:
        value = first & 63
        while first & 64:
            first = next(data)
            value = value << 6 | first & 63
        return value

    entries = []
    for first in data:
        assert first & 128, "an entry starts here"
        start = number(first)
        size, target, depth = (number(next(data)) for _ in range(3))
        entries.append((start, start + size, target, depth))
    return entries


def by_unit(code: Any) -> dict[int, tuple[int, int]]:
    entries = parse_table(code)
    assert all(entry[0] < entry[1] for entry in entries)
    assert all(left[1] <= right[0] for left, right in zip(entries, entries[1:])), "sorted, without overlaps"
    return {unit: entry[2:] for entry in entries for unit in range(entry[0], entry[1])}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no exception tables")
@pytest.mark.parametrize("guard", ["try", "finally", "with", "nested try", "try in for"])
@pytest.mark.parametrize("loop", [*MEASURED, "inner try", "in except", "in finally", "nested for", "while and or", "long body"])
def test_repaired_table(loop: str, guard: str) -> None:
    """Only back edges get another handler, that of their target, and what is equal to the code stays so."""
    import dis

    shape = build(LOOPS[loop], GUARDS[guard])
    code = shape.__code__
    before, hash_before, twin = by_unit(code), hash(code), code.replace()
    jumps = {}
    for instruction in dis.get_instructions(code):
        if "BACKWARD" in instruction.opname:
            assert isinstance(instruction.argval, int)
            width = 1 + getattr(dis, "_inline_cache_entries", {}).get(instruction.opname, 0) if sys.version_info >= (3, 13) else 1
            jumps.update({instruction.offset // 2 + i: instruction.argval // 2 for i in range(width)})
    runner = Runner(shape, 5)
    drive(runner)
    check(runner, guard, 5)
    after = by_unit(code)
    assert hash(code) == hash_before == hash(twin)
    for unit in range(len(code.co_code) // 2):
        if after.get(unit) != before.get(unit):
            if unit in jumps.values():  # a loop's head that no handler covered: like the edge
                assert before.get(unit) is None
                assert after[unit] in [after.get(edge) for edge, head in jumps.items() if head == unit]
            else:
                assert unit in jumps, f"unit {unit} is no back edge"
                assert after.get(unit) == before.get(jumps[unit])


@pytest.mark.skipif(sys.version_info[:2] == (3, 10), reason="this interpreter would never let another thread run")
@pytest.mark.parametrize("kind", ["finally", "else"])
def test_a_finished_try_is_not_entered_again(kind: str) -> None:
    """An interrupt between two rounds is none of the `try` that one of them has left."""
    loop = {
        "finally": "while True:\n    try:\n        w.x += 1\n    finally:\n        w.n += 1",
        "else": "while True:\n    try:\n        w.x += 1\n    except ThreadInterrupted:\n        w.n += 1\n        raise\n    else:\n        w.me = w",
    }[kind]
    runner = Runner(build(loop, GUARDS["try"]), count(30))
    drive(runner)
    check(runner, "try", count(30))
    if kind == "finally":
        assert runner.w.n == runner.w.x
