"""scripts/check_cpython.py finds what it is there for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: Debian's has a few modules of the package, but no tests.
HAS_TESTS = importlib.util.find_spec("test") is not None and importlib.util.find_spec("test.test_contextlib") is not None
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_cpython.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("check_cpython", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(script: Any, plain: list[str], ours: list[str], **said: Any) -> Any:
    """run() that gives these outcomes of one test, one after the other."""
    lists = {False: iter(plain), True: iter(ours)}

    def run(module: str, library: bool) -> Any:
        return script.Run({"test_it": next(lists[library]), script.THE_MODULE: "passed"}, **{"parks": 1, "trouble": "", **said})

    return run


@pytest.mark.parametrize(
    ("plain", "ours", "different"),
    [
        (["passed"], ["passed"], set()),
        (["passed"] * 3, ["failed", "passed", "passed"], {"test_it"}),  # ours fails now and then
        (["passed", "passed", "failed"], ["failed"], set()),  # it is flaky
        (["passed"] * 3, ["skipped"], {"test_it"}),
    ],
)
def test_what_counts(script: Any, plain: list[str], ours: list[str], different: set[str]) -> None:
    script.run = answers(script, plain, ours)
    assert script.compare("test_module", 2).different == different


@pytest.mark.parametrize("said", [{"trouble": "some"}, {"parks": 0}])
def test_a_library_that_is_not_at_work_counts(script: Any, said: dict[str, Any]) -> None:
    script.run = answers(script, ["passed"], ["passed"], **said)
    (different,) = script.compare("test_module", 2).different
    assert "not at work" in different


@pytest.mark.skipif(not HAS_TESTS, reason="this interpreter comes without its tests")
def test_a_disabled_library_is_found_out() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "contextlib"], env={**os.environ, "INTERRUPTIBLE_DISABLE": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert "the library was not at work" in done.stdout


BACKGROUND_JOB = """
import importlib.util, os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
path = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("check_cpython", path)
script = importlib.util.module_from_spec(spec)
sys.modules["check_cpython"] = script
spec.loader.exec_module(script)
CHILD = "import signal, sys; sys.exit(any(signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGINT, signal.SIGQUIT)))"
def run(module, library):
    ignored = subprocess.run([sys.executable, "-c", CHILD]).returncode
    return script.Run({"test_it": "passed", script.THE_MODULE: "passed"}, 1, "signals are ignored" if ignored else "")
script.run = run
sys.exit(script.main())
"""


@pytest.mark.skipif(not HAS_TESTS, reason="this interpreter comes without its tests")
def test_as_a_background_job() -> None:
    """A shell has Ctrl-C ignored there; CPython's tests of it would wait for ever."""
    done = subprocess.run([sys.executable, "-c", BACKGROUND_JOB, str(SCRIPT), "wait4"], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, "0 different" in done.stdout) == (0, True), done.stdout
