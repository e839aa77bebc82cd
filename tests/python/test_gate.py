"""What decides about a change: the table of parts, the notes that a run leaves behind, and what is made of a failure."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = str(Path(__file__).parent)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of scripts/ by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def test_table(scripts: Any) -> None:
    """What is in the gate is in everything, and each mechanism is in the gate."""
    parts = scripts("parts")
    gate, everything = (parts.read(parts.TABLE.read_text(), which) for which in (False, True))
    assert [part for part in gate if part not in everything] == []
    named = {part.name for part in gate}
    assert {"lint", "model", "c", "asan", "preload", "import", "races"} <= named
    versions = {part.interpreter.partition("-")[0] for part in gate if part.interpreter}
    assert {"3.11", "3.12", "3.13", "3.14", "3.15"} <= versions and versions & {"3.9", "3.10"}
    assert any(part.clients for part in gate)
    for name in parts.WITH_PYTHON:
        assert any(part.name == name and part.interpreter == "*" for part in everything), name


@pytest.mark.parametrize(
    ("interpreter", "tag", "wanted"),
    [
        ("3.9", "3.9.18-shared", True),
        ("3.9", "3.19.1-shared", False),
        ("3.1", "3.11.2-static", False),
        ("3.11-static", "3.11.2-static", True),
        ("3.11-static", "3.11.7-shared", False),
        ("3.13.5t", "3.13.5t-static", True),
        ("3.13.0-shared", "3.13.0-shared", True),
        ("*", "3.13.5t-static", True),
    ],
)
def test_interpreters_of_a_part(scripts: Any, interpreter: str, tag: str, wanted: bool) -> None:
    assert scripts("parts").Part("preload", interpreter).wants(tag) is wanted


@pytest.mark.parametrize("line", ["check", "some lint", "check lnit", "check preload", "all preload 3.9+servers", "check c 3.9"])
def test_bad_table(scripts: Any, line: str) -> None:
    with pytest.raises(SystemExit, match=r"parts\.txt, line 2"):
        scripts("parts").read(f"check lint\n{line}\n", True)


TESTS = """
import os, pytest
def test_passes(): pass
def test_fails(): print("it said so"); assert [] == [1]
def test_skips(): pytest.skip("not here")
@pytest.fixture
def broken():
    yield
    raise ValueError("torn down")
def test_tears_down(broken): pass
def test_crashes(): os.abort()
def test_comes_behind(): pass
"""


def noted(folder: Path, only: str = "") -> subprocess.CompletedProcess[str]:
    """pytest's run of these tests, which notes what it does."""
    (folder / "test_them.py").write_text(TESTS)
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": HERE, "ITR_TEST_REPORT": str(folder / "reports" / "it")}
    if only:
        (folder / "only").write_text(only)
        environ["ITR_TEST_ONLY"] = str(folder / "only")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "reporting",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        "--rootdir",
        ".",
        "test_them.py",
    ]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_notes_of_a_crash(scripts: Any, tmp_path: Path) -> None:
    assert noted(tmp_path).returncode < 0
    notes = scripts("outcome").read_notes(tmp_path / "reports" / "it")
    assert notes.crashed == "test_them.py::test_crashes"
    assert notes.not_run == ["test_them.py::test_comes_behind"]
    assert set(notes.failed) == {"test_them.py::test_fails", "test_them.py::test_tears_down"}
    assert "it said so" in notes.failed["test_them.py::test_fails"]
    assert "torn down" in notes.failed["test_them.py::test_tears_down"]
    assert set(notes.seconds) - set(notes.failed) == {"test_them.py::test_passes", "test_them.py::test_skips"}


def test_some_only(scripts: Any, tmp_path: Path) -> None:
    done = noted(tmp_path, only="test_them.py::test_passes\ntest_them.py::test_comes_behind\n")
    assert done.returncode == 0, done.stdout
    assert "2 passed, 4 deselected" in done.stdout
    notes = scripts("outcome").read_notes(tmp_path / "reports" / "it")
    assert (notes.crashed, notes.not_run, notes.failed) == ("", [], {})


def test_cut_off_notes(scripts: Any, tmp_path: Path) -> None:
    """A process that is killed may leave half a line."""
    (tmp_path / "it").write_text('{"collected": ["a", "b"]}\n{"begun": "a"}\n{"test": "a", "outc')
    notes = scripts("outcome").read_notes(tmp_path / "it")
    assert (notes.crashed, notes.not_run) == ("a", ["b"])


LOG = """Start testing: Dec 01 12:00 UTC
----------------------------------------------------------
1/3 Testing: c.test_one.linked
1/3 Test: c.test_one.linked
Output:
[  PASSED  ] 3 test(s).
Test time =   1.25 sec
Test Passed.
----------------------------------------------------------
2/3 Testing: python.3.9.1-shared.preload
2/3 Test: python.3.9.1-shared.preload
Output:
=========== 1 failed, 2214 passed, 6 skipped, 1 warning in 197.32s (0:03:17) ===========
Test time = 198.00 sec
Test Failed.
----------------------------------------------------------
3/3 Testing: c.test_two.linked
3/3 Test: c.test_two.linked
Output:
Test time =   0.01 sec
Test Failed.
"""


def built(scripts: Any, folder: Path) -> Any:
    log = scripts("outcome").log_of(str(folder))
    log.parent.mkdir(parents=True)
    log.write_text(LOG)
    reports = folder / "Testing" / "reports"
    reports.mkdir()
    (reports / "python.3.9.1-shared.preload").write_text(
        '{"collected": ["a", "b"]}\n{"begun": "a"}\n{"test": "a", "outcome": "failed", "seconds": 2.5, "said": "because"}\n'
        '{"begun": "b"}\n{"test": "b", "outcome": "passed", "seconds": 1.5, "said": ""}\n'
    )
    return scripts("outcome").programs(str(folder))


def test_programs(scripts: Any, tmp_path: Path) -> None:
    one, python, two = built(scripts, tmp_path)
    assert one.passed and one.counts == Counter(passed=3) and one.failures == {}
    assert not python.passed and python.failures == {"a": "because"}
    assert python.counts["failed"] == 1 and python.counts["passed"] == 2214 and python.counts["skipped"] == 6
    assert not two.passed and two.counts == Counter(failed=1) and list(two.failures) == [""]
    assert scripts("outcome").slowest([one, python, two], 2) == [
        (2.5, "a", "python.3.9.1-shared.preload"),
        (1.5, "b", "python.3.9.1-shared.preload"),
    ]


@pytest.mark.parametrize("again", [True, False])
def test_what_is_repeated(scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Each failed test alone, so many times; it is a finding when all of them pass, and a failure when one does not."""
    check = scripts("check")
    found = built(scripts, tmp_path)
    asked: list[Any] = []

    def ctest(program: Any, *options: str, only: list[str]) -> bool:
        asked.append((program.name, options, only))
        return again or program.name.startswith("c.")

    monkeypatch.setattr(check, "ctest", ctest)
    passed, findings = check.rerun(found, 5)
    assert asked == [
        ("python.3.9.1-shared.preload", ("--repeat", "until-fail:5"), ["a"]),
        ("c.test_two.linked", ("--repeat", "until-fail:5"), [""]),
    ]
    assert passed == (found[1:] if again else found[2:])
    assert len(findings) == len(passed)
    assert any("because" in finding for finding in findings) is again


def test_many_failures_are_no_chance(scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = scripts("check")
    found = built(scripts, tmp_path)
    monkeypatch.setattr(check, "ctest", lambda *_, **__: pytest.fail("is repeated"))
    assert check.rerun(found * check.MOST_RERUN, 5) == ([], [])
