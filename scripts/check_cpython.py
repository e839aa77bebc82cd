#!/usr/bin/env python3
"""CPython's own regression tests, with the library and without it: nobody is interrupted, so nothing may differ.

With it means: preloaded, the exact calls swapped, and every thread attached, the main thread too
(INTERRUPTIBLE_ATTACH_MAIN=1), so that its calls go through the parks and not straight to libc. The last column says how
many parks the main thread of the tests made.

    check_cpython.py [--again N] [MODULE...]    run by the interpreter to be tested, with the package on its path

A test whose outcome differs is run again without the library, up to N times: it counts unless it comes out that way there, too.
Whatever else fails, a run in which the library was not at work counts as a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

#: What waits, forks, takes signals, traces or looks at the C API.
MODULES = [
    "threading",
    "thread",
    "queue",
    "concurrent_futures",
    "socket",
    "ssl",
    "select",
    "poll",
    "epoll",
    "selectors",
    "asyncio",
    "subprocess",
    "signal",
    "time",
    "io",
    "fileio",
    "os",
    "posix",
    "fcntl",
    "fork1",
    "wait3",
    "wait4",
    "multiprocessing_fork",
    "multiprocessing_spawn",
    "sqlite3",
    "sqlite",  # its name up to 3.10
    "faulthandler",
    "gc",
    "sys_settrace",
    "contextlib",
    "capi",
]

#: Differences that are meant to be, with the reason. At most five.
EXPLAINED: dict[str, str] = {}

#: Two of these at a time are in each other's way: ports that the whole machine shares, names in /tmp.
ALONE = {"test_socket"}

#: Sockets between a virtual machine and its host: what the latter does with them varies, and accept() may wait for ever.
IGNORED = ("--ignore", "*VSOCK*")

LIMIT = 1200  # seconds for a module

#: Runs one module of the test package, and leaves behind how often its main thread was parked, if the library was at work.
INSIDE = """
import atexit, json, runpy, sys, threading
def report(ident=threading.get_ident()):
    library = sys.modules.get("interruptible_threading")
    said = {"parks": 0, "trouble": "it is not loaded"}
    if library is not None:
        status, info = library.status(), library._core.park_info(ident)
        trouble = status["problems"] or ([] if status["patches"] else ["the patches are not installed"])
        said = {"parks": info["parks"] if info else 0, "trouble": "; ".join(trouble)}
    with open(sys.argv_report, "w") as file: json.dump(said, file)
sys.argv_report, *sys.argv[1:] = sys.argv[1:]
atexit.register(report)
runpy.run_module("test", run_name="__main__", alter_sys=True)
"""

Outcomes = dict[str, str]
THE_MODULE = "(the module)"


def outcomes_of(report: Path) -> Outcomes:
    """{test: passed, failed or skipped} of a JUnit report."""
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = case.get("name", "?")
        # A test with subtests has several entries: one that failed decides.
        if found.get(name) != "failed":
            found[name] = outcome
    return found


class Run(NamedTuple):
    """What a run of a module said."""

    outcomes: Outcomes
    #: Of its main thread.
    parks: int = 0
    #: Why the library was not at work; "": it was.
    trouble: str = "it said nothing"


def run(module: str, library: bool) -> Run:
    environ = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    command = [sys.executable]
    if library:
        environ["INTERRUPTIBLE_ATTACH_MAIN"] = "1"
        command = [sys.executable, "-m", "interruptible_threading", "exec", "--", sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        junit, said = Path(folder, "report.xml"), Path(folder, "said.json")
        options = ["-u", "all,-largefile,-cpu,-gui,-audio", "--timeout", str(LIMIT // 2), *IGNORED]
        test = [str(said), *options, "--junit-xml", str(junit), module]
        output = Path(folder, "output")
        with output.open("wb") as file:
            # A session of its own: what it leaves behind (3.13.0's process pools do) is ended with it.
            runner = subprocess.Popen(
                [*command, "-c", INSIDE, *test],
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = runner.wait(LIMIT)
            except subprocess.TimeoutExpired:
                return Run({THE_MODULE: "hung"})
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(runner.pid, signal.SIGKILL)
                runner.wait()
        found = outcomes_of(junit) if junit.exists() else {}
        found[THE_MODULE] = {0: "passed", 2: "failed", 3: "passed", 4: "passed"}.get(status, f"exit status {status}")
        if found[THE_MODULE].startswith("exit"):
            print(output.read_text(errors="replace")[-3000:], file=sys.stderr)
        return Run(found, **json.loads(said.read_text())) if said.exists() else Run(found)


def differences(plain: Outcomes, ours: Outcomes) -> set[str]:
    return {name for name in plain.keys() | ours.keys() if plain.get(name) != ours.get(name)}


def passes(run: Run) -> int:
    return sum(outcome == "passed" for outcome in run.outcomes.values())


class Row(NamedTuple):
    """Of the table."""

    tests: int
    without: int
    with_library: int
    parks: int
    different: set[str]


def compare(module: str, again: int) -> Row:
    with ThreadPoolExecutor(1 if module in ALONE else 2) as pool:
        runs = pool.submit(run, module, False), pool.submit(run, module, True)
    plain, ours = (run.result() for run in runs)
    for _ in range(again):
        if len(plain.outcomes) > 1:
            break
        plain = run(module, False)  # it hung, by itself
    if len(plain.outcomes) == 1:
        return Row(0, 0, 0, ours.parks, {f"(nothing ran: {plain.outcomes[THE_MODULE]})"})
    different = differences(plain.outcomes, ours.outcomes)
    for _ in range(again):
        if not different:
            break
        # Only what it does without the library says that a test is flaky: what we break now and then is broken.
        other = run(module, False).outcomes
        different -= {name for name in different if other.get(name) == ours.outcomes.get(name)}
    if ours.trouble or ours.parks == 0:  # the runner of the tests waits by itself, whatever the module does
        different.add(f"(the library was not at work: {ours.trouble or 'no wait came by'})")
    return Row(len(plain.outcomes), passes(plain), passes(ours), ours.parks, different)


def catch_signals() -> None:
    """A shell starts its background jobs with these ignored, which children inherit: tests of Ctrl-C would wait for ever."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def main() -> int:
    catch_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", type=int, default=4, metavar="N", help="runs of a module that differs (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="MODULE")
    arguments = parser.parse_args()
    if find_spec("test.libregrtest") is None:
        parser.exit(2, f"check_cpython: {sys.executable} has no test suite (package test): install it, or use another interpreter\n")
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"CPython {version}\n{'module':28}{'tests':>7}{'without':>9}{'with':>7}{'parks':>10}  different", flush=True)
    rows: dict[str, Row] = {}
    missing = []
    for name in arguments.modules:
        module = name if name.startswith("test_") else f"test_{name}"
        if find_spec(f"test.{module}") is None:
            missing.append(module)
            continue
        rows[module] = row = compare(module, arguments.again)
        numbers = f"{row.tests:7}{row.without:9}{row.with_library:7}{row.parks:10}"
        print(f"{module:28}{numbers}  {', '.join(sorted(row.different))}", flush=True)
    if arguments.json:
        table = {module: {**row._asdict(), "different": sorted(row.different)} for module, row in rows.items()}
        arguments.json.write_text(json.dumps({"version": version, "modules": table, "missing": missing}, indent=1) + "\n")
    if missing:
        print(f"not installed with this interpreter: {', '.join(missing)}")
    bad = [name for row in rows.values() for name in row.different if name not in EXPLAINED]
    total = [sum(column) for column in zip(*(row[:3] for row in rows.values()))]
    print("{} tests, {} passed without, {} with, {} different".format(*total, len(bad)) if rows else "nothing was tested")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
