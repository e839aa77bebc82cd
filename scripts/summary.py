#!/usr/bin/env python3
"""Add up what the tests of several CTest builds said: a line for each program that ran, and a closing line for all."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

TEST = re.compile(r"^\d+/\d+ Test: (.+)$", re.MULTILINE)
PYTEST = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", re.MULTILINE)
CMOCKA = re.compile(r"^\[\s+(PASSED|FAILED|SKIPPED)\s+\] (\d+) test\(s\)", re.MULTILINE)
KINDS = {"error": "failed", "errors": "failed", "xpassed": "failed", "xfailed": "skipped"}


def outcome(output: str) -> Counter[str]:
    """What one program reported; at least one failure when CTest says that it failed."""
    count: Counter[str] = Counter()
    for line in PYTEST.findall(output)[-1:]:
        for number, kind in re.findall(r"(\d+) (\w+)", line):
            count[KINDS.get(kind, kind)] += int(number)
    for kind, number in CMOCKA.findall(output):
        count[kind.lower()] += int(number)
    passed = re.search(r"^Test Passed\.$", output, re.MULTILINE) is not None
    if not passed and not count["failed"]:
        count["failed"] = 1
    if passed and not count:
        count["passed"] = 1
    return count


def main() -> int:
    total: Counter[str] = Counter()
    for build in sys.argv[1:]:
        log = Path(build, "Testing", "Temporary", "LastTest.log")
        if not log.exists():
            print(f"{build}: no test ran")
            total["failed"] += 1
            continue
        parts = TEST.split(log.read_text(encoding="utf-8", errors="replace"))
        for name, output in zip(parts[1::2], parts[2::2]):
            count = outcome(output)
            total += count
            print(f"{build} {name}: " + ", ".join(f"{count[kind]} {kind}" for kind in ("passed", "failed", "skipped") if count[kind]))
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
