#!/usr/bin/env python3
"""The symbol audit: compare what libinterruptible.so exports with libc.

    audit.py LIBRARY [LIBC]

Fails when a row of src/calls.def is not exported; when a variant that libc has of it (fortified, 64, cancellation
point, version) is neither exported nor explained in audit_skips.txt; when libc has a call that looks as if it waited
and that is in neither; and when the library exports anything else than libc's names and the C API.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROW = re.compile(r"^ITR_ROW\(\w+, (\w+), (\w+),", re.MULTILINE)
API = re.compile(r"^\w[\w *]*?\b(itr_\w+)\(", re.MULTILINE)
WAITS = re.compile(
    r"wait|sleep|pause|suspend|poll|select|recv|rcv|send|snd|accept|connect|join|splice|timed|lock|flock"
    r"|^(__)?sig(action|nal|mask|procmask|vec|block|hold|relse|ignore|set|setmask|interrupt)$"
)
# What the pattern above catches by accident in names that have nothing to do with waiting.
UNRELATED = re.compile(r"^(epoll_c|posix_spawn|re_|pidfd_send_signal|wcs|.*xdr|_?svc.*|.*socks)|locale|block(size)?$")


def exported(path: str | Path) -> dict[str, set[str]]:
    """Dynamic symbols that are defined, each with its versions."""
    text = subprocess.run(["readelf", "-W", "--dyn-syms", str(path)], check=True, capture_output=True, text=True).stdout
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit() and fields[6] != "UND" and fields[4] != "LOCAL":
            name, _, version = fields[7].partition("@")
            found.setdefault(name, set()).add(version.lstrip("@"))
    return found


def libc_path() -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if re.search(r"/libc(\.so\.6|-[\d.]+\.so)$", path):
            return path
    raise SystemExit("audit: this interpreter has no libc.so.6")


def canonical(name: str) -> str:
    """The function a variant is one of."""
    name = re.sub(r"^(__libc_|__|_)", "", name)
    for suffix in ("_chk", "_nocancel", "_2"):
        if name.endswith(suffix):
            name = name[: -len(suffix)]
    return re.sub(r"(64)?(v2)?(_time64)?$", r"\2", name, count=1)


def skips() -> dict[str, str]:
    """Pattern to reason."""
    table: dict[str, str] = {}
    reason = ""
    for line in (HERE / "audit_skips.txt").read_text().splitlines():
        if line.startswith("="):
            reason = line[1:].strip()
        elif line and not line.startswith("#"):
            if not reason:
                raise SystemExit(f"audit_skips.txt: names without a reason: {line}")
            table.update(dict.fromkeys(line.split(), reason))
    return table


def audit(library: str | Path, libc: str | Path) -> list[str]:
    rows = dict(ROW.findall((ROOT / "src" / "calls.def").read_text()))
    api = set(API.findall((ROOT / "include" / "interruptible.h").read_text())) | {"itr_stub_api"}
    ours = exported(library)
    theirs = exported(libc)
    public = {name for name, versions in theirs.items() if versions != {"GLIBC_PRIVATE"}}
    table = skips()
    problems = [f"{name}: a row of calls.def, but not exported" for name in rows if name not in ours]
    problems += [f"{name}: exported, but libc has no such function" for name in ours if name not in api and name not in theirs]
    problems += [f"{name}: exported without a row" for name in ours if name in theirs and name not in rows]
    problems += [f"{name}: declared in interruptible.h, but not exported" for name in api if name not in ours]
    problems += [f"{name}: exported with version {versions}" for name, versions in ours.items() if versions != {""}]
    bases = {canonical(name) for name in rows}
    for name in sorted(public - set(ours)):
        variant = canonical(name) in bases
        if not variant and (not WAITS.search(name) or UNRELATED.search(name)):
            continue
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in table):
            what = f"a variant of {canonical(name)}" if variant else "looks as if it waited"
            problems.append(f"{name}: {what}; neither exported nor in audit_skips.txt")
    problems += [f"{name}: exported, and in audit_skips.txt" for name in ours for pattern in table if fnmatch.fnmatchcase(name, pattern)]
    return problems


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    problems = audit(arguments[0], arguments[1] if len(arguments) > 1 else libc_path())
    for problem in problems:
        print(problem)
    print(f"audit: {len(problems)} problems" if problems else "audit: passed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
