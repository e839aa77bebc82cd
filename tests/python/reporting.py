"""Notes what each test has come to, as it goes, for scripts/check.py: a run that crashes leaves its notes behind.

ITR_TEST_REPORT names the file, of which each line is a JSON object. ITR_TEST_ONLY names a file with the tests to run, one a
line: the others of the selection are left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Optional

import pytest


class Report:
    def __init__(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the run
        self.process = os.getpid()
        self.seconds = 0.0
        self.outcome = "passed"
        self.said = ""

    def note(self, **what: Any) -> None:
        if os.getpid() == self.process:  # not in a child of a test's that goes on by mistake
            self.file.write(json.dumps(what) + "\n")
            self.file.flush()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.note(collected=[item.nodeid for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.seconds, self.outcome, self.said = 0.0, "passed", ""
        self.note(begun=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.failed or (report.skipped and self.outcome == "passed"):
            self.outcome = report.outcome
            self.said += f"{report.longreprtext}\n{report.capstdout}{report.capstderr}" if report.failed else ""
        if report.when == "teardown":
            self.note(test=report.nodeid, outcome=self.outcome, seconds=round(self.seconds, 3), said=self.said)


def pytest_configure(config: pytest.Config) -> None:
    # Taken out of the environment: programs that the tests start have reports of their own, or none.
    path: Optional[str] = os.environ.pop("ITR_TEST_REPORT", None)
    if path:
        config.pluginmanager.register(Report(path), "itr-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only = os.environ.get("ITR_TEST_ONLY")
    if not only:
        return
    wanted = set(Path(only).read_text(encoding="utf-8").splitlines())
    others = [item for item in items if item.nodeid not in wanted]
    items[:] = [item for item in items if item.nodeid in wanted]
    config.hook.pytest_deselected(items=others)
