#!/usr/bin/env python3
"""CPython's own regression tests, with the library and without it: nobody is interrupted, so nothing may differ.

With it means: preloaded, the exact calls swapped, and every thread attached, the main thread too
(INTERRUPTIBLE_ATTACH_MAIN=1), so that its calls go through the parks and not straight to libc. The last column says how
many parks the main thread of the tests made.

    check_cpython.py [--again N] [MODULE...]    run by the interpreter to be tested, with the package on its path

A test whose outcome differs is run again, up to N times each way: it counts only if that never happens without the library.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

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

#: Runs one module of the test package, and leaves the number of parks of its main thread behind.
INSIDE = """
import atexit, runpy, sys, threading
def report(ident=threading.get_ident()):
    core = sys.modules.get("interruptible_threading._core")
    info = core.park_info(ident) if core else None
    with open(sys.argv_parks, "w") as file: file.write(str(info["parks"] if info else 0))
sys.argv_parks, *sys.argv[1:] = sys.argv[1:]
atexit.register(report)
runpy.run_module("test", run_name="__main__", alter_sys=True)
"""

Outcomes = dict[str, str]


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


def run(module: str, library: bool) -> tuple[Outcomes, int]:
    """The outcome of each test of the module, and the number of parks."""
    environ = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    command = [sys.executable]
    if library:
        environ["INTERRUPTIBLE_ATTACH_MAIN"] = "1"
        command = [sys.executable, "-m", "interruptible_threading", "exec", "--", sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        report, parks = Path(folder, "report.xml"), Path(folder, "parks")
        options = ["-u", "all,-largefile,-cpu,-gui,-audio", "--timeout", str(LIMIT // 2), *IGNORED]
        test = [str(parks), *options, "--junit-xml", str(report), module]
        try:
            done = subprocess.run(
                [*command, "-c", INSIDE, *test],
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return {"(the module)": "hung"}, 0
        found = outcomes_of(report) if report.exists() else {}
        found["(the module)"] = {0: "passed", 2: "failed", 3: "passed", 4: "passed"}.get(done.returncode, f"exit status {done.returncode}")
        if found["(the module)"].startswith("exit"):
            print(done.stdout[-3000:], file=sys.stderr)
        return found, int(parks.read_text()) if parks.exists() else 0


def differences(plain: Outcomes, ours: Outcomes) -> set[str]:
    return {name for name in plain.keys() | ours.keys() if plain.get(name) != ours.get(name)}


def compare(module: str, again: int) -> tuple[int, int, int, set[str], int]:
    """Tests, passes without and with the library, what differs for good, parks."""
    with ThreadPoolExecutor(1 if module in ALONE else 2) as pool:
        without, with_library = pool.submit(run, module, False), pool.submit(run, module, True)
    (plain, _), (ours, parks) = without.result(), with_library.result()
    different = differences(plain, ours)
    if len(plain) == 1:
        return 0, 0, 0, {f"(nothing ran: {plain['(the module)']})"}, parks
    for _ in range(again):
        if not different:
            break
        # Flaky is what comes out both ways without the library, or the same in another run with it.
        other, _ = run(module, library=False)
        different -= {name for name in different if other.get(name) == ours.get(name)}
        mine, _ = run(module, library=True)
        different -= {name for name in different if mine.get(name) == plain.get(name)}
    passes = [sum(outcome == "passed" for outcome in outcomes.values()) for outcomes in (plain, ours)]
    return len(plain), passes[0], passes[1], different, parks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", type=int, default=4, metavar="N", help="runs of a module that differs (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="MODULE")
    arguments = parser.parse_args()
    if find_spec("test.libregrtest") is None:
        parser.exit(2, f"check_cpython: {sys.executable} has no test suite (package test): install it, or use another interpreter\n")
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"CPython {version}\n{'module':28}{'tests':>7}{'without':>9}{'with':>7}{'parks':>10}  different", flush=True)
    rows: dict[str, dict[str, int]] = {}
    differences_of: dict[str, list[str]] = {}
    for name in arguments.modules:
        module = name if name.startswith("test_") else f"test_{name}"
        if find_spec(f"test.{module}") is None:
            print(f"{module:28}  not in this version", flush=True)
            continue
        tests, plain, ours, different, parks = compare(module, arguments.again)
        rows[module] = {"tests": tests, "without": plain, "with": ours, "parks": parks}
        differences_of[module] = sorted(different)
        print(f"{module:28}{tests:7}{plain:9}{ours:7}{parks:10}  {', '.join(sorted(different))}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"version": version, "modules": rows, "different": differences_of}, indent=1) + "\n")
    bad = [name for names in differences_of.values() for name in names if name not in EXPLAINED]
    print(f"{sum(row['tests'] for row in rows.values())} tests, {len(bad)} different" if rows else "nothing was tested")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
