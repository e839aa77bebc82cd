#!/usr/bin/env python3
"""Build, and run what tests/parts.txt says: "make check", and with --all "make check-all". Every step runs, whatever the
others find. The exit status and the closing lines say whether all was well.

    PYTHONS="3.9 3.13.0-shared"   only these interpreters, in every mode
    ITR_SID=0                     without Debian sid's interpreters; 1: with them (scripts/sid.sh). Default: with, as root
    ITR_CLIENTS="3.12 3.13"       test clients of real servers with these, and not with those that the table says
    ITR_STORM_SECONDS=600         how long each of the storms lasts, per interpreter
    ITR_TEST_SEED=1               what stress tests start from: 1 in "make check", by chance in "make check-all"
    ITR_RERUN=5                   what fails is repeated alone, so many times: when all of them pass, it is a finding, named in
                                  the last lines, and the run has passed. For .ci/run only
    CI=true                       nothing that the table names may be missing
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable

import outcome
import parts
from parts import Part

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI") == "true"
LOGS = Path("build", "log")
SHOWN = 400  # lines of a log
#: More than this is no chance.
MOST_RERUN = 5
SID = ("3.14", "3.15")


class Steps:
    """Runs commands, keeps what they write, and notes what they took."""

    def __init__(self) -> None:
        self.took: list[tuple[str, float]] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()  # of the output: two chains of steps write

    def __call__(self, name: str, *commands: list[str], **environment: str) -> bool:
        """One step. Its commands run until one fails; its output is shown when one has."""
        start = time.monotonic()
        log = LOGS / f"{name.replace(' ', '-').replace(',', '')}.log"
        settings = {**os.environ, **environment}
        with log.open("w") as file:
            ok = not any(
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=settings).returncode for command in commands
            )
        with self._lock:
            self.took.append((name, time.monotonic() - start))
            print(f"check: {name}: {'passed' if ok else 'FAILED'} after {self.took[-1][1]:.0f} s", flush=True)
            if not ok:
                self.failed.append(name)
                lines = log.read_text(errors="replace").splitlines()
                print("\n".join([f"check: the last lines of {log}:", *lines[-SHOWN:]]), flush=True)
        return ok


def python_list() -> list[str]:
    """The tags of the interpreters that are found here."""
    listed = subprocess.run([sys.executable, "scripts/pythons.py", "--list"], stdout=subprocess.PIPE, text=True, check=True)
    return [line.split("\t")[0] for line in listed.stdout.splitlines()]


def want_sid() -> bool:
    asked = os.environ.get("ITR_SID")
    return asked != "0" if asked else os.geteuid() == 0 and "PYTHONS" not in os.environ


class Plan:
    """Which parts run where."""

    def __init__(self, everything: bool) -> None:
        self.everything = everything
        self.parts = parts.read(parts.TABLE.read_text(), everything)
        self.sid = want_sid()
        found = python_list()
        only = os.environ.get("PYTHONS", "").split()
        if only:
            modes = [Part(how, name) for name in only for how in ("preload", "import", "ctypes", "races")]
            self.parts = [part for part in self.parts if part.name in ("c", "model")] + modes
        if not self.sid:
            self.parts = [part for part in self.parts if part.name != "c-sid"]
        self.tags = [tag for tag in found if any(part.wants(tag) for part in self.parts)]
        if not self.tags and found and not only:
            print(f"check: none of the interpreters that {parts.TABLE.name} names is here: {found[-1]} is taken")
            self.tags = found[-1:]
            self.parts += [Part(how, found[-1]) for how in ("preload", "import", "races")]
        self.missing = [part for part in self.parts if part.interpreter and not self.is_here(part) and not self.is_sids(part)]

    def is_here(self, part: Part) -> bool:
        return any(part.wants(tag) for tag in self.tags)

    def is_sids(self, part: Part) -> bool:
        if part.name == "c-sid":
            return True
        return self.sid and (part.interpreter == "*" or (part.interpreter.startswith(SID) and not self.is_here(part)))

    def tests(self, build: str) -> str:
        """What CTest is to run there, as a regular expression."""
        if build == "build/sid":
            chosen = [part.test for part in self.parts if self.is_sids(part)]
        else:
            here = [part for part in self.parts if part.test and (self.is_here(part) if part.interpreter else part.build == build)]
            chosen = [part.test for part in here if build == "build" or not part.interpreter]
        return "|".join(chosen)

    def clients(self) -> str:
        """For ITR_CLIENTS; "": those that scripts/pythons.py chooses."""
        named = {part.interpreter for part in self.parts if part.clients}
        return os.environ.get("ITR_CLIENTS", "" if "*" in named else " ".join(sorted(named)))


def build_and_test(steps: Steps, plan: Plan, preset: str, jobs: int, *options: str) -> None:
    build = "build" if preset == "release" else f"build/{preset}"
    outcome.log_of(build).unlink(missing_ok=True)
    compile_with = ["--parallel", os.environ.get("JOBS") or str(os.cpu_count() or 1)]
    if steps(
        f"build, {preset}",
        ["cmake", "--preset", preset, *options],
        ["cmake", "--build", "--preset", preset, *compile_with, "--", "--no-print-directory", "--quiet"],
    ):
        steps(f"tests, {preset}", ["ctest", "--preset", preset, "--parallel", str(jobs), "-R", plan.tests(build)])


def release(steps: Steps, plan: Plan, jobs: int) -> None:
    pythons = ""
    if plan.tags:
        made = LOGS / "pythons"
        clients = plan.clients()
        command = f'"$0" scripts/pythons.py "$@" >{made}'
        environment = {"ITR_CLIENTS": clients} if clients else {}
        if not steps("environments", ["sh", "-c", command, sys.executable, *plan.tags], **environment):
            return
        pythons = made.read_text().strip()
    build_and_test(steps, plan, "release", jobs, f"-DITR_PYTHONS={pythons}")


def run(steps: Steps, plan: Plan) -> None:
    """Two chains of steps, since most of them leave a processor idle; with --all one, for what wants the machine to itself."""
    chosen = {part.name for part in plan.parts}
    jobs = int(os.environ.get("JOBS") or os.cpu_count() or 1)

    def sid() -> None:
        tests = plan.tests("build/sid")
        if tests:
            outcome.log_of("build/sid").unlink(missing_ok=True)
            c_tests = "ON" if "c-sid" in chosen else "OFF"
            at_a_time = str(jobs if plan.everything else 1)
            steps("sid", ["scripts/sid.sh"], ITR_SID_TESTS=tests, ITR_SID_C_TESTS=c_tests, ITR_TEST_JOBS=at_a_time)

    def watched(preset: str) -> Callable[[], None]:
        return lambda: build_and_test(steps, plan, preset, jobs) if preset in chosen else None

    def lint() -> None:
        steps("lint", ["make", "--no-print-directory", "lint"])

    first = [sid, watched("asan"), watched("tsan"), watched("valgrind")]
    second = [lint, lambda: release(steps, plan, jobs)]
    if plan.everything:
        first, second = first + second, []

    def chain(calls: list[Callable[[], None]]) -> None:
        for call in calls:
            call()

    other = threading.Thread(target=chain, args=[second])
    other.start()
    chain(first)
    other.join()


def ctest(program: outcome.Program, *options: str, only: list[str]) -> bool:
    """Run a program once more, or some of its tests; whether it passed."""
    command = ["ctest", "--test-dir", program.build, "-R", f"^{re.escape(program.name)}$", "--output-on-failure", *options]
    environment = dict(os.environ)
    if only != [""]:
        path = LOGS / "only"
        path.write_text("".join(f"{test}\n" for test in only))
        environment["ITR_TEST_ONLY"] = str(path)
    if program.build == "build/sid":
        command = ["scripts/sid.sh", "--", *command]
    return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode == 0


def rerun(found: list[outcome.Program], times: int) -> tuple[list[outcome.Program], list[str]]:
    """Those that pass when they are repeated, and what is to be said of them."""
    failing = [program for program in found if not program.passed]
    if sum(max(len(program.failures), 1) for program in failing) > MOST_RERUN:
        return [], []
    passed, findings = [], []
    for program in failing:
        print(f"check: once more, {times} times, alone: {', '.join(program.failures)} of {program.name}", flush=True)
        alone = all(ctest(program, "--repeat", f"until-fail:{times}", only=[test]) for test in program.failures)
        rest = program.notes.not_run
        if program.failures and alone and (not rest or ctest(program, only=rest)):
            passed.append(program)
            findings += [
                f"check: A FINDING: {test or 'a test'} of {program.build} {program.name} failed, and passed {times} times alone. "
                f"It had said:\n{said}"
                for test, said in program.failures.items()
            ]
    return passed, findings


def closing(steps: Steps, plan: Plan, found: list[outcome.Program], passed: list[outcome.Program], seconds: float) -> bool:
    """The table, and the line that says it all. Whether all was well."""
    print("check: the slowest tests:")
    for took, test, name in outcome.slowest(found):
        print(f"  {took:7.1f} s  {name} {test}")
    print("check: where the time went:")
    for name, took in steps.took:
        print(f"  {took / 60:7.1f} min  {name}")
    how = "" if plan.everything else " (two chains of steps run side by side)"
    print(f"  {seconds / 60:7.1f} min  in all, set-up included{how}")
    count = {program.name + program.build: program.counts for program in found}
    for program in passed:
        count[program.name + program.build] = Counter({**program.counts, "failed": 0}) + Counter(passed=program.counts["failed"])
    lacking = []
    print("check: what held:")
    for part in plan.parts:
        if not part.test:
            print(f"  {'FAILED' if part.name in steps.failed else 'held':8}  {part}")
            continue
        builds = {part.build} if not part.interpreter else {"build", "build/sid"}
        its = [count[program.name + program.build] for program in found if program.build in builds and re.search(part.test, program.name)]
        ran: Counter[str] = sum(its, Counter())
        if not its:
            lacking.append(part)
        state = "held" if its and not ran["failed"] else "left out" if part in plan.missing and not CI else "FAILED"
        print(f"  {state:8}  {part}: {outcome.counted(ran)}")
    total: Counter[str] = sum(count.values(), Counter())
    # A step of tests that failed has said which; those that have passed in the end count as such.
    said = {"sid", *(f"tests, {preset}" for preset in ("release", "asan", "tsan", "valgrind"))} if not total["failed"] else set()
    bad = [name for name in steps.failed if name not in said] + [str(part) for part in lacking if CI or part not in plan.missing]
    if bad:
        print(f"check: failed: {'; '.join(bad)}")
    failed = total["failed"] or len(bad)
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return not failed and total["passed"] > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="make check-all")
    parser.add_argument(
        "--started", type=float, default=time.time(), help="when the command began, with its set-up (seconds since the epoch)"
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)
    LOGS.mkdir(parents=True, exist_ok=True)
    if CI or os.geteuid() == 0:
        os.environ["ITR_REQUIRE_SERVERS"] = "1"  # they have been installed
    if arguments.all:
        os.environ.setdefault("ITR_STORM_SECONDS", "10")
    else:
        os.environ.setdefault("ITR_TEST_SEED", "1")
    steps, plan = Steps(), Plan(arguments.all)
    steps.took.append(("set-up", time.time() - arguments.started))
    if plan.missing:
        print(f"check: {'missing' if CI else 'left out, since it is not found here'}: {', '.join(map(str, plan.missing))}")
    if not plan.sid:
        print("check: CPython 3.14 and 3.15 of Debian sid are left out; ITR_SID=1, as root, gets and tests them")
    run(steps, plan)
    builds = ["build", *sorted({part.build for part in plan.parts if part.test and not part.interpreter} - {"build"})]
    found = [program for build in dict.fromkeys([*builds, "build/sid"]) if plan.tests(build) for program in outcome.programs(build)]
    passed, findings = rerun(found, int(os.environ["ITR_RERUN"])) if os.environ.get("ITR_RERUN") else ([], [])
    ok = closing(steps, plan, found, passed, time.time() - arguments.started)
    for finding in findings:
        print(finding)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
