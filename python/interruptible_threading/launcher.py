"""The `interruptible` command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NoReturn

from . import __version__, _patches, _preload, _programs
from ._status import status
from ._thread import InterruptibleThread

USAGE = """\
usage: interruptible run [--no-children] script.py [argument ...]
       interruptible run [--no-children] -m module [argument ...]
       interruptible exec [--no-children] [--] command [argument ...]
       interruptible status
       interruptible --help | --version
"""
HELP = (
    USAGE
    + f"""
run      start a Python program with this interpreter, every thread of it interruptible
exec     start any command; the Pythons below it are interruptible
status   say what is active on this interpreter, and why something is not

--no-children   the program's own child processes start as usual

The exit status, signals included, is the program's own; 2 when it could not be started.

environment:
  INTERRUPTIBLE_SIGNAL=NAME|NUMBER  the signal that wakes threads, by default SIGURG
  INTERRUPTIBLE_MAX_LOOKUPS=NUMBER  interrupted look-ups of host names that may still be running, by default 64
  INTERRUPTIBLE_CHILDREN=0          what --no-children sets
  INTERRUPTIBLE_DISABLE=1           do not install the patches at interpreter start
  {_preload.VARIABLE} and PYTHONPATH get an entry each; what they hold stays
"""
)

_CANNOT = 2


class _Usage(Exception):
    """A wrong command line: one line for its user."""


def _say(line: str) -> None:
    sys.stderr.write(f"interruptible: {line}\n")


def _replace_process(path: str, argv: list[str], *, children: bool) -> NoReturn:
    if not os.path.exists(_preload.LIBRARY):
        raise _programs.Refusal(f"{_preload.LIBRARY} is missing: this package was not built for this system")
    if not _preload.expressible():
        _say(f"{_preload.VARIABLE} cannot name {_preload.LIBRARY}, for its space or colon: it is loaded late instead")
    environ = dict(os.environ)
    _preload.add(environ, children=children)
    sys.stdout.flush()
    # Python ignores these for itself, and ignored signals stay ignored across exec.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execve(path, argv, environ)
    except OSError as error:
        raise _programs.Refusal(f"cannot start {path}: {error.strerror}") from None


def _options(arguments: list[str], command: str) -> tuple[bool, list[str]]:
    """(whether children take part, what follows our own options)."""
    children = True
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        if rest[0] == "--no-children":
            children = False
        elif rest[0] == "--":
            return children, rest[1:]
        elif command == "run" and rest[0].startswith("-m"):
            break
        else:
            raise _Usage(f"{command}: unknown option {rest[0]}; see interruptible --help")
        rest = rest[1:]
    return children, rest


def _run(arguments: list[str]) -> NoReturn:
    children, program = _options(arguments, "run")
    if not program:
        raise _Usage("run: which script? interruptible run script.py, or interruptible run -m module")
    if program == ["-m"]:
        raise _Usage("run: which module? interruptible run -m module")
    if not program[0].startswith("-") and not os.path.exists(program[0]):
        raise _Usage(f"run: no such script: {program[0]}")
    if not sys.executable:
        raise _programs.Refusal("this interpreter does not know its own executable (sys.executable is empty)")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise _programs.Refusal("python -I, -E and -S skip the start-up hook: run without them")
    # As multiprocessing and test runners do, so that -X, -W, -O and their like reach the program.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    _replace_process(sys.executable, [sys.executable, *flags, *program], children=children)


def _exec(arguments: list[str]) -> NoReturn:
    children, command = _options(arguments, "exec")
    if not command:
        raise _Usage("exec: which command? interruptible exec -- command argument ...")
    program = _programs.inspect(command)
    if program.warning is not None:
        _say(program.warning)
    _replace_process(program.path, command, children=children)


def _status(arguments: list[str]) -> int:
    if arguments:
        raise _Usage(f"status takes no arguments, not {arguments[0]}")
    if not _patches.installed():
        try:
            InterruptibleThread.install_patches()
        except RuntimeError as error:
            _say(str(error))
    report = status()
    problems = report.pop("problems")
    print(f"interruptible-threading {__version__}, Python {sys.version.split()[0]} ({sys.executable})")
    for key, value in report.items():
        print(f"{key}: {value}")
    for problem in problems:
        print(f"problem: {problem}")
    return 1 if problems else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status when the process was not replaced."""
    arguments = sys.argv[1:] if argv is None else argv
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if command == "run":
            _run(rest)
        if command == "exec":
            _exec(rest)
        if command == "status":
            return _status(rest)
        if command in ("-h", "--help", "help"):
            print(HELP, end="")
            return 0
        if command in ("-V", "--version"):
            print(f"interruptible-threading {__version__}")
            return 0
        if not command:
            raise _Usage("which command? run, exec or status; see interruptible --help")
        kind = "option" if command.startswith("-") else "command"
        raise _Usage(f"unknown {kind} {command}; see interruptible --help")
    except (_Usage, _programs.Refusal) as problem:
        _say(str(problem))
        return _CANNOT
