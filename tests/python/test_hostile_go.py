"""A Go runtime in the process: it preempts its goroutines by SIGURG, and takes that signal by system call."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hostile_support import survives
from support import absent

SOURCE = Path(__file__).with_name("native") / "preempted.go"

LOAD = """
def load():
    go = ctypes.CDLL(sys.argv[1])
    go.Least.restype = ctypes.c_ulonglong
    go.Start(2)
    return go
def goes_on():
    "Every goroutine gets on, and can be stopped: without preemption at most two of them run, and this does not return."
    least = go.Least()
    until(lambda: go.Least() > least, lambda: "goroutines are preempted")
    go.Collect()
"""


@pytest.fixture(scope="module")
def go_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("go") is None:
        absent("go (Debian's golang-go) is not installed")
    path = tmp_path_factory.mktemp("go") / "libpreempted.so"
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environ.update(CGO_ENABLED="1", GOFLAGS="-mod=mod", GO111MODULE="off", GOTOOLCHAIN="local")
    subprocess.run(["go", "build", "-buildmode=c-shared", "-o", path, SOURCE], check=True, env=environ)
    return str(path)


def test_go_comes_under_parked_threads(go_library: str) -> None:
    """It replaces our handler: another number is taken, and what was on its way is sent again."""
    survives(
        LOAD
        + """
crowd = Crowd()
crowd.interrupt()
go = load()
goes_on()
for _ in range(20): crowd.interrupt()
goes_on()
crowd.finish()
works()
goes_on()
assert status()["signal_ours"], status()
""",
        go_library,
    )


def test_go_is_there_first(go_library: str) -> None:
    """Our handler hands Go's signals on to its own."""
    survives(
        """
for _ in range(4):
    works()
    goes_on()
assert status()["signal_ours"], status()
""",
        go_library,
        before="import ctypes, sys, time\n"
        + LOAD
        + """
def until(condition, what):
    while not condition(): time.sleep(0.001)
go = load()
goes_on()
import builtins; builtins.go, builtins.goes_on = go, goes_on
""",
    )


def test_threads_inside_go(go_library: str) -> None:
    """Their interrupt comes when Go returns; those beside them raise at once, and Go goes on."""
    survives(
        LOAD
        + """
go = load()
crowd = Crowd()
caught = []
def body():
    try:
        try: go.Block()
        finally: caught.append(threading.get_ident())
        while True: pass
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
for turn in range(3):
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    until(lambda: go.Blocked() > turn, lambda: "it is inside")
    handle = interrupt(thread)
    for _ in range(3): crowd.interrupt()
    goes_on()
    assert handle.state == "pending" and not caught, (handle.explain(), caught)
    go.Release()
    thread.join(GUARD)
    assert caught == [thread.ident, handle.id], caught
    del caught[:]
crowd.finish()
goes_on()
""",
        go_library,
    )
