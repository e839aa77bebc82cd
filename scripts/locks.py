#!/usr/bin/env python3
"""Check the lock files (requirements/*.txt): each pins all that the .in file beside it asks for, and nothing stands in it
without a version and hashes. Needs no network; "make lock" renews them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
#: One package: name, version, perhaps where it is wanted, and the hashes of its files.
PINNED = re.compile(
    r"""(?P<name> [a-z0-9]+ (?:-[a-z0-9]+)* ) == (?P<version> [^\s;\\=*]+ ) (?:\ ;\ [^\\\n]+ )?
        (?: \ \\\n\ +--hash=sha256:[0-9a-f]{64} )+ \n
        (?: \ +\#.*\n )*""",
    re.VERBOSE,
)
ASKED = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w, -]*\])?(?:==(?P<version>[\w.+!-]+))?")


def read(lock: Path) -> dict[str, str]:
    """What a lock file pins, as name==version, each with the lines that say so."""
    entries = re.split(r"^(?=[^\s#])", lock.read_text(), flags=re.MULTILINE)[1:]
    return {entry.split()[0]: entry for entry in entries}


def asked(file: Path) -> dict[str, str]:
    """The names that a .in file asks for, each with its version, or with ""."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        include = re.match(r"-r\s+(\S+)", line)
        match = ASKED.match(line)
        if include:
            found.update(asked(file.parent / include[1]))
        elif match:
            found[re.sub(r"[-_.]+", "-", match["name"]).lower()] = match["version"] or ""
    return found


def faults(file: Path) -> list[str]:
    """What is wrong with the lock file of a .in file."""
    lock = file.with_suffix(".txt")
    if not lock.exists():
        return [f"{lock.name} is missing"]
    found = []
    versions: dict[str, set[str]] = {}
    for entry in read(lock).values():
        match = PINNED.fullmatch(entry)
        if match:
            versions.setdefault(match["name"], set()).add(match["version"])
        else:
            found.append(f"{lock.name}: {entry.splitlines()[0]!r} has no version, no hash, or what is more than those")
    for name, version in asked(file).items():
        if name not in versions:
            found.append(f"{lock.name} does not pin {name}, which {file.name} asks for")
        elif version and versions[name] != {version}:
            found.append(f"{lock.name} pins {name} {' and '.join(sorted(versions[name]))}, and {file.name} asks for {version}")
    return found


def main() -> int:
    files = sorted(FOLDER.glob("*.in"))
    found = [fault for file in files for fault in faults(file)]
    found += [f"{lock.name} has no .in file" for lock in sorted(FOLDER.glob("*.txt")) if lock.with_suffix(".in") not in files]
    for fault in found:
        print(f"locks: {fault}")
    if found:
        print('locks: "make lock" writes them anew')
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
