"""Scripts that import hostile_inside.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from interruptible_threading import _preload
from support import c_compiler, run_script

#: Before anything of the library is imported.
FIRST = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})\n"
ALL = """
import ctypes, itertools, os, signal, socket, subprocess, sys, threading, time
from hostile_inside import *
from hostile_inside import _core
"""


def survives(body: str, *argv: str, before: str = "", env: Any = None) -> str:
    """The program comes to its end with status 0, and nothing is on its standard error. What it has printed."""
    output = run_script(FIRST + before + ALL + body + "\nend()\n", *argv, env=env)
    assert output.splitlines()[-1:] == ["end"], output
    return output


def beside(other: str, order: str) -> dict[str, str]:
    """Before or behind ours in the variable; alone where ours is bound late."""
    ours = [path for path in os.environ.get(_preload.VARIABLE, "").split(os.pathsep) if path]
    both = [other, *ours] if order == "before" else [*ours, other]
    return {_preload.VARIABLE: os.pathsep.join(both)}


def native(name: str, folder: Path) -> str:
    """A library made of native/``name``.c."""
    path = folder / f"lib{name}.so"
    source = Path(__file__).with_name("native") / f"{name}.c"
    subprocess.run([*c_compiler(), "-D_GNU_SOURCE", "-shared", "-fPIC", "-pthread", "-o", path, source], check=True)
    return str(path)
