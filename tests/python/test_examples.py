"""The examples come to their end when they are started as any program is, and say what they are meant to say."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from interruptible_threading import _preload
from support import run_python

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

OUTPUT = {
    "masks": r"""critical_section: 100 threads interrupted, no money lost
deliver_on_blocking: 100 threads interrupted, 0 items lost
""",
    # The machine may be busy.
    "time_limit": r"""quick_tool: (?:42|TimeoutError: longer than 0.3 s) \([\d.]+ s\)
hung_tool: TimeoutError: longer than 0.3 s \([\d.]+ s\)
""",
    "worker_pool": r"""a is done
a task was cancelled
c is done
d is done
""",
    "demo": r"[^$]*\n(\d+) of \1 calls interrupted\n[^$]*",
}


def test_all_are_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTPUT)


def check(name: str, *launcher: str) -> None:
    done = run_python(*launcher, os.fspath(EXAMPLES / f"{name}.py"))
    assert (done.returncode, done.stderr) == (0, ""), done
    assert re.fullmatch(OUTPUT[name], done.stdout), done.stdout


@pytest.fixture(autouse=True)
def _plain_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without the library, whatever these tests themselves were started with."""
    monkeypatch.delenv(_preload.VARIABLE, raising=False)


@pytest.mark.parametrize("name", OUTPUT)
def test_plain(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", sorted(OUTPUT.keys() - {"demo"}))  # that one starts the launcher itself
def test_launcher(name: str) -> None:
    check(name, "-m", "interruptible_threading", "run")
