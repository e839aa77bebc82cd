"""What CTest's programs have come to: read from its log, and from the notes that pytest's runs leave behind."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PROGRAM = re.compile(r"^\d+/\d+ Test: (.+)$", re.MULTILINE)
PYTEST = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", re.MULTILINE)
CMOCKA = re.compile(r"^\[\s+(PASSED|FAILED|SKIPPED)\s+\] (\d+) test\(s\)", re.MULTILINE)
TIME = re.compile(r"^Test time = +([\d.]+) sec", re.MULTILINE)
KINDS = {"error": "failed", "errors": "failed", "xpassed": "failed", "xfailed": "skipped"}


class Notes(NamedTuple):
    """Of one run of pytest (tests/python/reporting.py)."""

    collected: list[str]
    #: The test that was running when the notes end; "": none, the run came to its end.
    crashed: str
    seconds: dict[str, float]
    #: What the failed ones said.
    failed: dict[str, str]

    @property
    def not_run(self) -> list[str]:
        return [test for test in self.collected if test not in self.seconds and test != self.crashed]


def read_notes(path: Path) -> Notes:
    notes = Notes([], "", {}, {})
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            what = json.loads(line)
        except ValueError:
            continue  # cut off in the middle
        notes.collected.extend(what.get("collected", []))
        notes = notes._replace(crashed=what.get("begun", ""))
        if "test" in what:
            notes.seconds[what["test"]] = what["seconds"]
            if what["outcome"] == "failed":
                notes.failed[what["test"]] = what["said"]
    return notes


class Program(NamedTuple):
    """One of CTest's tests: a program of many tests."""

    build: str
    name: str
    passed: bool
    counts: Counter[str]
    seconds: float
    output: str
    notes: Notes

    @property
    def failures(self) -> dict[str, str]:
        """What failed, and what it said: pytest's tests by name, another program as a whole. Empty also where it cannot be
        told what failed."""
        if self.passed:
            return {}
        if not self.notes.collected:
            return {} if self.name.startswith(("python.", "races.", "leaks.", "storm.", "model")) else {"": self.output}
        crashed = {self.notes.crashed: self.output[-10_000:]} if self.notes.crashed else {}
        return {**self.notes.failed, **crashed}


def count_of(output: str, passed: bool) -> Counter[str]:
    """What one program reported; at least one failure when CTest says that it failed."""
    count: Counter[str] = Counter()
    for line in PYTEST.findall(output)[-1:]:
        for number, kind in re.findall(r"(\d+) (\w+)", line):
            count[KINDS.get(kind, kind)] += int(number)
    for kind, number in CMOCKA.findall(output):
        count[kind.lower()] += int(number)
    if not passed and not count["failed"]:
        count["failed"] = 1
    if passed and not count:
        count["passed"] = 1
    return count


def log_of(build: str) -> Path:
    return Path(build, "Testing", "Temporary", "LastTest.log")


def programs(build: str) -> list[Program]:
    """Those that CTest has run last in this folder."""
    log = log_of(build)
    if not log.exists():
        return []
    parts = PROGRAM.split(log.read_text(encoding="utf-8", errors="replace"))
    found = []
    for name, output in zip(parts[1::2], parts[2::2]):
        passed = re.search(r"^Test Passed\.$", output, re.MULTILINE) is not None
        seconds = [float(number) for number in TIME.findall(output)]
        notes = read_notes(Path(build, "Testing", "reports", name))
        found.append(Program(build, name, passed, count_of(output, passed), sum(seconds[-1:]), output, notes))
    return found


def counted(count: Counter[str]) -> str:
    return ", ".join(f"{count[kind]} {kind}" for kind in ("passed", "failed", "skipped") if count[kind]) or "nothing ran"


def slowest(found: list[Program], n: int = 10) -> list[tuple[float, str, str]]:
    """(seconds, test, program) of the slowest tests."""
    tests = [(seconds, test, program.name) for program in found for test, seconds in program.notes.seconds.items()]
    tests += [(program.seconds, "", program.name) for program in found if not program.notes.seconds]
    return sorted(tests, reverse=True)[:n]
