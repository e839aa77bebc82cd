"""The table of what has to hold (tests/parts.txt): which parts a command runs, and as which of CTest's tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).resolve().parent.parent / "tests" / "parts.txt"

#: CTest's name for a part with the interpreter TAG.
WITH_PYTHON = {
    "preload": r"python\.TAG\.preload",
    "import": r"python\.TAG\.import",
    "ctypes": r"python\.TAG\.ctypes",
    "races": r"races\.TAG",
    "leaks": r"leaks\.TAG",
    "storm": r"storm\.TAG",
    "cpython": r"cpython\.TAG",
}
#: The folder that a part without one is built in, and CTest's names there.
WITHOUT = {
    "c": ("build", r"c\..*"),
    "c-sid": ("build/sid", r"c\..*"),
    "model": ("build", "model"),
    "asan": ("build/asan", r"c\..*"),
    "tsan": ("build/tsan", r"c\..*"),
    "valgrind": ("build/valgrind", r"c\..*"),
}


class Part(NamedTuple):
    name: str
    interpreter: str = ""
    clients: bool = False

    @property
    def build(self) -> str:
        """Where it is built, when it needs no interpreter."""
        return WITHOUT[self.name][0]

    @property
    def tag(self) -> str:
        """A regular expression for the tags of the interpreters that it is for: 3.11.2-static, 3.13.5t-static."""
        if self.interpreter == "*":
            return r"[0-9.]+[a-z]*-[a-z]+"
        version, _, kind = self.interpreter.partition("-")
        micro = r"" if version.count(".") > 1 else r"\.[0-9]+"
        return re.escape(version) + micro + "[a-z]*-" + (kind or "[a-z]+")

    @property
    def test(self) -> str:
        """A regular expression for the names of its tests, which CTest understands too; "": it is no test."""
        if self.interpreter:
            return f"^{WITH_PYTHON[self.name].replace('TAG', self.tag)}$"
        return f"^{WITHOUT[self.name][1]}$" if self.name in WITHOUT else ""

    def wants(self, tag: str) -> bool:
        return bool(self.interpreter) and re.fullmatch(self.tag, tag) is not None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.interpreter))) + ("+clients" if self.clients else "")


def read(text: str, everything: bool) -> list[Part]:
    """The parts of "make check", or of "make check-all"."""
    parts = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        where = f"{TABLE.name}, line {number}"
        if len(fields) not in (2, 3) or fields[0] not in ("check", "all"):
            raise SystemExit(f"{where}: {line!r} is not 'check' or 'all', a part, and perhaps an interpreter")
        command, name, *interpreter = fields
        if name not in (WITH_PYTHON if interpreter else {"lint", *WITHOUT}):
            raise SystemExit(f"{where}: there is no part {name!r} {'with' if interpreter else 'without'} an interpreter")
        version, plus, extra = (interpreter or [""])[0].partition("+")
        if plus and extra != "clients":
            raise SystemExit(f"{where}: {extra!r} is not 'clients'")
        if everything or command == "check":
            parts.append(Part(name, version, bool(plus)))
    return parts
