"""Under tracers, profilers and sys.monitoring, in Python and in C, a loop's own guard catches the interrupt as ever.

And the tracer does not notice: it is in its place afterwards and goes on seeing events.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import threading
import time
from functools import partial
from types import FrameType
from typing import Any, Callable

import pytest
from interruptible_threading import ThreadInterrupted, check_interrupt, deliver_on_blocking, interrupt
from loop_shapes import GUARDS, MEASURED, MORE, Runner, build
from native_support import library
from stress_support import count
from support import SEM, SLEEP, Worker, parked
from test_loops import DEAF, check, drive

#: Calls, iterators and nested loops, beside the loops that Ctrl-C escapes from.
SOME_MORE = ["for continue", "nested for", "C calls", "Python calls", "generator", "list comprehension", "long body", "inner try"]
LOOPS = {**MEASURED, **{name: MORE[name] for name in SOME_MORE}}
MONITORING = pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="no sys.monitoring")
#: None of those that debuggers, coverage tools, profilers and optimisers use.
TOOL = 3

Rounds = Callable[[], None]


def probe() -> int:
    """A function for the tracer to see."""
    n = 0
    for i in range(10):
        n += i
    return n


def goes_on(seen: Callable[[], int]) -> None:
    before = seen()
    probe()
    assert seen() > before, "the tracer sees no events any more"


def in_python(kind: str, rounds: Rounds, *, opcodes: bool = False) -> None:
    """sys.settrace() or sys.setprofile()."""
    seen = 0
    probed = False

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen, probed
        seen += 1
        probed = probed or frame.f_code is probe.__code__
        if opcodes:
            frame.f_trace_opcodes = True
        return trace

    use, used = (sys.settrace, sys.gettrace) if kind == "trace" else (sys.setprofile, sys.getprofile)
    use(trace)
    try:
        rounds()
        assert used() is trace
        assert not probed
        goes_on(lambda: seen)
        assert probed
    finally:
        use(None)


def in_c(kind: str, rounds: Rounds) -> None:
    """PyEval_SetTrace() or PyEval_SetProfile()."""
    use = ctypes.pythonapi["PyEval_SetTrace" if kind == "trace" else "PyEval_SetProfile"]
    use.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    use.restype = None
    shown = ["what gettrace() and getprofile() show"]
    use(ctypes.cast(library().count_event, ctypes.c_void_p), id(shown))
    try:
        rounds()
        assert (sys.gettrace if kind == "trace" else sys.getprofile)() is shown  # type: ignore[comparison-overlap]
        goes_on(library().count_events)
    finally:
        use(None, None)


def by_cprofile(rounds: Rounds) -> None:
    """A profiler in C that is in daily use."""
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    try:
        rounds()
        for _ in range(5):
            probe()
    finally:
        profile.disable()
    assert [entry.callcount for entry in profile.getstats() if entry.code is probe.__code__] == [5]


def by_monitoring(rounds: Rounds) -> None:
    """sys.monitoring with all the events that a debugger wants."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    seen = 0

    def see(*args: Any) -> None:
        nonlocal seen
        seen += 1

    events = monitoring.events
    wanted = (events.PY_START, events.LINE, events.JUMP, events.BRANCH, events.PY_RETURN, events.CALL)
    monitoring.use_tool_id(TOOL, "test")
    try:
        for event in wanted:
            monitoring.register_callback(TOOL, event, see)
        monitoring.set_events(TOOL, sum(wanted))
        were = monitoring.get_events(TOOL)  # from 3.14 on BRANCH stands for two others
        rounds()
        assert monitoring.get_events(TOOL) == were != 0
        goes_on(lambda: seen)
    finally:
        monitoring.set_events(TOOL, 0)
        for event in wanted:
            monitoring.register_callback(TOOL, event, None)
        monitoring.free_tool_id(TOOL)


TRACERS = [
    pytest.param(partial(in_python, "trace"), id="settrace"),
    pytest.param(partial(in_python, "trace", opcodes=True), id="settrace opcodes"),
    pytest.param(partial(in_python, "profile"), id="setprofile"),
    pytest.param(partial(in_c, "trace"), id="C trace"),
    pytest.param(partial(in_c, "profile"), id="C profile"),
    pytest.param(by_cprofile, id="cProfile"),
    pytest.param(by_monitoring, id="monitoring", marks=MONITORING),
]


@pytest.mark.parametrize("guard", ["try", "finally", "with"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tracer", TRACERS)
def test_caught_by_its_own_guard(tracer: Callable[[Rounds], None], loop: str, guard: str) -> None:
    """Each interrupt is seen once by the guard around the loop; the tracer stays."""
    if loop in DEAF:
        pytest.skip("this interpreter would never let another thread run")
    turns = count(3)
    runner = Runner(build(LOOPS[loop], GUARDS[guard]), turns, around=tracer)
    drive(runner)
    check(runner, guard, turns)


@pytest.mark.parametrize("loop", ["while pass", "for continue", "C calls"])
def test_a_tracer_that_comes_and_goes(loop: str) -> None:
    """It is switched on and off by the traced thread itself, also while an interrupt is on its way."""
    turns = count(3)
    events = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal events
        events += 1
        if events % 7 == 0:
            sys.settrace(None)
            sys.settrace(trace)
        return trace

    def around(rounds: Rounds) -> None:
        sys.settrace(trace)
        try:
            rounds()
            assert sys.gettrace() is trace
        finally:
            sys.settrace(None)

    runner = Runner(build(LOOPS[loop], GUARDS["try"]), turns, around=around)
    drive(runner)
    check(runner, "try", turns)
    assert events


def traced(kind: str, see: Callable[..., Any], call: Callable[[], Any]) -> Any:
    """``call()``, of which the tracer is told; it is in its place afterwards."""
    if kind == "monitoring":
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
        events = (monitoring.events.PY_START, monitoring.events.LINE, monitoring.events.PY_RETURN)
        monitoring.use_tool_id(TOOL, "test")
        try:
            for event in events:
                monitoring.register_callback(TOOL, event, see)
            monitoring.set_events(TOOL, sum(events))
            return call()
        finally:
            monitoring.set_events(TOOL, 0)
            for event in events:
                assert monitoring.register_callback(TOOL, event, None) is see
            monitoring.free_tool_id(TOOL)
    use, used = (sys.settrace, sys.gettrace) if kind == "trace" else (sys.setprofile, sys.getprofile)
    use(see)
    try:
        value = call()
        assert used() is see
        return value
    finally:
        use(None)


@pytest.mark.parametrize("waits", ["lock", "sleep", "queue"])
@pytest.mark.parametrize("kind", ["trace", "profile", pytest.param("monitoring", marks=MONITORING)])
def test_a_tracer_that_waits(kind: str, waits: str) -> None:
    """Its callback is interrupted in a wait, and before each of many: nothing is raised in it, and no result is lost."""
    lock = threading.Lock()
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    seen = 0
    inside = set()

    def see(*args: Any) -> Any:
        nonlocal seen
        if threading.get_ident() not in inside:  # monitoring sees all threads
            return None
        if waits == "lock":
            with lock:
                seen += 1
        elif waits == "queue":
            seen += items.get()
        else:
            while items.empty():
                time.sleep(0.01)
            time.sleep(0)
            seen += 1
        return see

    def steps() -> Any:
        with deliver_on_blocking():
            inside.add(threading.get_ident())
            results = [traced(kind, see, probe) for _ in range(100)]
            try:
                check_interrupt()
            except ThreadInterrupted:
                return results
        return "no interrupt"

    lock.acquire()
    worker = Worker(steps)
    parked(worker, *SEM, *SLEEP)
    interrupt(worker)
    for _ in range(10000):
        items.put(1)
    lock.release()
    assert worker.value() == [45] * 100
    assert seen >= 200
