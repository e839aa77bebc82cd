"""What kind of program a command is: whether it can be preloaded, and whether it will look at PYTHONPATH."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import struct
from typing import BinaryIO, NamedTuple

from . import _preload

_PT_INTERP = 3
# A dynamic linker called as a command has no linker of its own, and honours the preload of what it starts.
_LINKER = re.compile(r"ld(-|\.so|64\.so)")
_PYTHON = re.compile(r"python(\d+(\.\d+)?)?[dt]*$")
# Options that make Python ignore PYTHONPATH (-I, -E) or sitecustomize (-I -S keep it out too).
_DEAF = "IES"
_SHEBANGS_AT_MOST = 4


class Refusal(Exception):
    """Why a command cannot be run interruptibly: one line for its user."""


class Program(NamedTuple):
    """A command that can be run, and what to say about it first."""

    path: str
    warning: str | None = None


def find(command: str) -> str:
    """The executable file that ``command`` means; Refusal when there is none."""
    path = shutil.which(command)
    if path is not None:
        return path
    if os.sep not in command:
        raise Refusal(f"command not found: {command}")
    if not os.path.exists(command):
        raise Refusal(f"no such file: {command}")
    raise Refusal(f"not an executable file: {command}")


def _is_static(file: BinaryIO) -> bool:
    """Whether an ELF file names no dynamic linker in its program headers."""
    ident = file.read(16)
    wide = ident[4] == 2
    order = ">" if ident[5] == 2 else "<"
    # Behind the identification: type, machine, version, entry, then where the program headers are.
    head = struct.Struct(order + ("HHIQQQIHHH" if wide else "HHIIIIIHHH"))
    fields = head.unpack(file.read(head.size))
    start, size, count = fields[4], fields[8], fields[9]
    for index in range(count):
        file.seek(start + index * size)
        if struct.unpack(order + "I", file.read(4))[0] == _PT_INTERP:
            return False
    return True


def _shebang(file: BinaryIO) -> list[str]:
    """The command in a script's first line, without `env`."""
    line = file.readline(4096)[2:].decode(errors="surrogateescape")
    words = shlex.split(line) if "'" in line or '"' in line else line.split()
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
        if words[:1] == ["-S"]:
            words = words[1:]
    return words


def deaf_option(argv: list[str]) -> str | None:
    """The option in a Python command line that keeps the patches from being installed."""
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--check-hash-based-pycs":
            next(arguments, None)
        if argument.startswith("--"):
            continue
        if not argument.startswith("-") or argument == "-":
            return None
        for position, letter in enumerate(argument[1:], 2):
            if letter in _DEAF:
                return "-" + letter
            if letter in "cm":
                return None
            if letter in "WXQ":
                if position == len(argument):
                    next(arguments, None)
                break
    return None


def inspect(argv: list[str]) -> Program:
    """The program that ``argv`` starts; Refusal when it would ignore the preload."""
    path = find(argv[0])
    name, arguments = argv[0], argv[1:]
    actual = path
    for _ in range(_SHEBANGS_AT_MOST):
        mode = os.stat(actual).st_mode
        try:
            with open(actual, "rb") as file:
                magic = file.read(4)
                file.seek(0)
                static = magic == b"\x7fELF" and _is_static(file)
                words = _shebang(file) if magic[:2] == b"#!" else []
        except (OSError, struct.error, IndexError):
            # It may be executable without being readable, or be broken: what happens then is the system's to say.
            static, words = False, []
        if not words:
            if mode & (stat.S_ISUID | stat.S_ISGID):
                raise Refusal(f"{actual} is set-user-ID or set-group-ID: the system ignores preloads for it")
            if _preload.DARWIN and actual.startswith(("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/System/")):
                raise Refusal(f"{actual} is protected by the system, which ignores preloads for it")
            if static and not _LINKER.match(os.path.basename(actual)):
                raise Refusal(f"{actual} is statically linked: it ignores preloads")
            break
        name, arguments = words[0], [*words[1:], *arguments]
        found = shutil.which(name)
        if found is None:
            break
        actual = found
    option = deaf_option(arguments) if _PYTHON.match(os.path.basename(name)) else None
    if option is None:
        return Program(path)
    return Program(path, f"{os.path.basename(name)} {option} skips the start-up hook: call install_patches() in the program itself")
