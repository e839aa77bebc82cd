#!/usr/bin/env python3
"""Park a thread in every kind of blocking call and interrupt it, with the library and without.

Each part is a process of its own, started the way a user would start a program. The exit status is 0 when everything
that should have been interrupted was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PARTS = Path(__file__).resolve().parent / "demo_parts"
LAUNCHER = [sys.executable, "-m", "interruptible_threading", "run"]


def plain_environment() -> dict[str, str]:
    """The environment of a program that knows nothing of the library, even when this one was started by its launcher."""
    environ = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES")}
    environ["INTERRUPTIBLE_DISABLE"] = "1"
    return environ


def main() -> int:
    status = subprocess.run([*LAUNCHER, str(PARTS / "with_library.py")]).returncode
    plain = subprocess.run([sys.executable, str(PARTS / "without_library.py")], env=plain_environment()).returncode
    uses = subprocess.run([*LAUNCHER, str(PARTS / "uses.py")]).returncode
    return 1 if status or plain or uses else 0


if __name__ == "__main__":
    sys.exit(main())
