"""Scripts that import hostile_inside.py."""

from __future__ import annotations

import os
from typing import Any

from support import run_script

#: Before anything of the library is imported.
FIRST = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})\n"
ALL = """
import ctypes, itertools, os, signal, socket, subprocess, sys, threading, time
from hostile_inside import *
from hostile_inside import _core
"""


def survives(body: str, *argv: str, before: str = "", env: Any = None) -> None:
    """The program comes to its end with status 0, and nothing is on its standard error."""
    output = run_script(FIRST + before + ALL + body + "\nend()\n", *argv, env=env)
    assert output.splitlines()[-1:] == ["end"], output
