#!/usr/bin/env python3
"""Find the CPython interpreters to build and test with, and give each a virtual environment with pytest.

Looks at pyenv's versions, at /usr/bin and /usr/local/bin, and at PATH, for CPython 3.9 and later with its development
files. An interpreter is known by its tag: version and kind of build, such as 3.13.0-shared. Prints the environments'
interpreters, separated by semicolons, as CMake's ITR_PYTHONS takes them. What was found and what was not goes to
standard error.

The clients of real servers (requirements/clients.in) take longer to install and to test than the rest, so only a few
environments get them: for each version named in ITR_CLIENTS (default: "3.11 3.13"), that of the latest interpreter found.
ITR_CLIENTS=none: no environment. One that cannot be installed is named and left out, and tried again next time; with
CI=true or ITR_REQUIRE_SERVERS=1 that is an error.

What is installed, down to the last dependency, is what the lock files in requirements/ say, of the hashes they say.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import locks

OLDEST = (3, 9)
NEWEST = (3, 15)
ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / os.environ.get("VENV", ".venv")
TESTS = locks.FOLDER / "tests.txt"
CLIENTS = locks.FOLDER / "clients.txt"
CLIENTS_FOR = "3.11 3.13"
# The only one without wheels, which is quickly built; building others would take long, and fail in the end.
FROM_SOURCE = "mysqlclient"
BUILT_WITH = "setuptools"
EXECUTABLE = re.compile(r"python3\.(\d+)t?d?$")


class Interpreter(NamedTuple):
    path: str
    version: tuple[int, int, int]
    tag: str
    headers: bool


def note(text: str) -> None:
    sys.stderr.write(text + "\n")


def is_binary(path: Path) -> bool:
    """Whether this is a program and not a script: version managers put scripts of these names on PATH."""
    try:
        with path.open("rb") as file:
            return file.read(2) != b"#!" and os.access(path, os.X_OK)
    except OSError:
        return False


def candidates() -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [*sorted(pyenv.glob("versions/*/bin")), Path("/usr/bin"), Path("/usr/local/bin")]
    folders += [Path(folder) for folder in os.get_exec_path() if os.path.isabs(folder)]
    found: dict[str, None] = {}
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            match = EXECUTABLE.match(path.name)
            if match and int(match.group(1)) >= OLDEST[1] and is_binary(path):
                found[str(path.resolve())] = None
    return list(found)


def describe(path: str) -> Interpreter | None:
    """Ask an interpreter what it is; None when it does not run or is not CPython."""
    try:
        asked = subprocess.run(
            [path, "-I", str(ROOT / "cmake" / "describe_python.py")], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        note(f"python: {path} does not run: {error}")
        return None
    facts: dict[str, Any] = json.loads(asked.stdout)
    if facts["implementation"] != "CPython":
        return None
    major, minor, micro = facts["version"]
    return Interpreter(path, (major, minor, micro), facts["tag"], facts["headers"])


def discover(paths: list[str]) -> list[Interpreter]:
    """The interpreters to use, oldest first, one for each tag."""
    with ThreadPoolExecutor(2) as pool:
        described = [found for found in pool.map(describe, paths) if found]
    chosen: dict[str, Interpreter] = {}
    for found in described:
        if found.version[:2] < OLDEST:
            note(f"python: {found.path} left out: older than {OLDEST[0]}.{OLDEST[1]}")
        elif not found.headers:
            note(f"python: {found.path} left out: its development files (Python.h) are not installed")
        elif found.tag in chosen:
            note(f"python: {found.path} left out: {found.tag} is {chosen[found.tag].path} already")
        else:
            chosen[found.tag] = found
    return sorted(chosen.values(), key=lambda found: (found.version, found.tag))


def wanted(found: Interpreter, only: list[str]) -> bool:
    return not only or any(found.tag == name or found.tag.startswith((name + ".", name + "-")) for name in only)


def environment(found: Interpreter, folder: Path) -> Path:
    """The interpreter of a virtual environment with what the tests require; made anew when anything changed."""
    home = folder / f"test-{found.tag}"
    python = home / "bin" / "python"
    ready = home / "ready"
    state = f"{found.path}\n{os.stat(found.path).st_mtime_ns}\n{TESTS.read_text()}"
    if ready.exists() and ready.read_text() == state and python.exists():
        return python
    note(f"python: making {home}")
    shutil.rmtree(home, ignore_errors=True)
    made = run([found.path, "-m", "venv", *(["--without-pip"] if pip_of_tools() else []), str(home)])
    if not made.returncode:
        made = install(python, locks.read(TESTS))
    if made.returncode:
        raise SystemExit(f"{' '.join(made.args)} failed:\n{made.stdout}{made.stderr}")
    ready.write_text(state)
    return python


def run(command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    return subprocess.run(command, input=given, capture_output=True, text=True, env={**os.environ, **quiet})


def pip_of_tools() -> bool:
    """Whether the environment of the tools runs this. Its pip is pinned, and spares the others one of their own, which takes
    longer to install than all the rest."""
    return TOOLS.exists() and os.path.samefile(sys.prefix, TOOLS) and importlib.util.find_spec("pip") is not None


def install(python: Path, pinned: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Install parts of a lock file. What is built from source is built with what is installed: pip would fetch the newest."""
    pip = [sys.executable, "-m", "pip", "--python", str(python)] if pip_of_tools() else [str(python), "-m", "pip"]
    binary = ["--only-binary", ":all:", "--no-binary", FROM_SOURCE, "--no-build-isolation"]
    command = [*pip, "install", "--quiet", "--require-hashes", *binary, *options, "--requirement", "/dev/stdin"]
    return run(command, "".join(pinned.values()))


def with_clients(found: list[Interpreter]) -> list[Interpreter]:
    """Those whose environments get the clients of real servers."""
    chosen: dict[str, Interpreter] = {}
    for name in os.environ.get("ITR_CLIENTS", CLIENTS_FOR).split():
        chosen.update((name, interpreter) for interpreter in found if wanted(interpreter, [name]))
    return list(dict.fromkeys(chosen.values()))


def install_clients(found: Interpreter, python: Path) -> None:
    """Put the clients into an environment. Its file "clients" says what of their lock file is there; the tests look for it."""
    ready = python.parent.parent / "clients"
    pinned = locks.read(CLIENTS)
    there = ready.read_text().splitlines() if ready.exists() else []
    missing = {name: entry for name, entry in pinned.items() if name not in there}
    if not missing:
        return
    note(f"python: installing into {python.parent.parent}: {' '.join(missing)}")
    first = {name: entry for name, entry in missing.items() if name.startswith(f"{BUILT_WITH}==")}
    done = install(python, first)
    if not done.returncode:
        done = install(python, missing)
    failed = []
    if done.returncode:
        if os.environ.get("CI") == "true" or os.environ.get("ITR_REQUIRE_SERVERS") == "1":
            raise SystemExit(f"python: {found.tag}: the clients cannot be installed:\n{done.stdout}{done.stderr}")
        for name, entry in {**first, **missing}.items():  # one by one, then: all but those that do not work
            done = install(python, {name: entry}, "--no-deps")
            if done.returncode:
                failed.append(name)
                why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                note(f"python: {found.tag} has no {name}, and its tests are left out: {why}")
    ready.write_text("".join(f"{name}\n" for name in pinned if name not in failed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv", metavar="DIR", help="where the environments go (default: .venv)")
    parser.add_argument("--list", action="store_true", help="print tag and path of each interpreter, and make nothing")
    parser.add_argument("only", nargs="*", metavar="VERSION", help="only these: 3.12, 3.13.0-shared, or a path")
    arguments = parser.parse_args()

    paths = [os.path.realpath(name) for name in arguments.only if os.sep in name]
    names = [name for name in arguments.only if os.sep not in name]
    found = discover(paths) if paths else []
    if names or not paths:
        known = {interpreter.tag for interpreter in found}
        found += [other for other in discover(candidates()) if wanted(other, names) and other.tag not in known]
    if not found:
        raise SystemExit("python: no CPython 3.9 or later with its development files was found")
    if arguments.list:
        for interpreter in found:
            print(interpreter.tag, interpreter.path, sep="\t")
        return

    for_clients = with_clients(found)

    def prepared(interpreter: Interpreter) -> Path:
        python = environment(interpreter, arguments.venvs)
        if interpreter in for_clients:
            install_clients(interpreter, python)
        return python

    with ThreadPoolExecutor(2) as pool:
        pythons = list(pool.map(prepared, found))
    note("python: found " + ", ".join(interpreter.tag for interpreter in found))
    minors = {interpreter.version[1] for interpreter in found}
    missing = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1) if minor not in minors]
    if missing and not arguments.only:
        note("python: not found: " + ", ".join(missing))
    print(";".join(str(python) for python in pythons))


if __name__ == "__main__":
    main()
