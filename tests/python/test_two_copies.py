"""Two copies of the shim in one process: one flag table all the same, or a clear refusal."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interruptible_threading import _preload, status
from support import PATIENCE, c_compiler

PROGRAM = """
import ctypes, sys, threading, time
if sys.argv[2] == "ctypes": ctypes.CDLL(sys.argv[1])
import interruptible_threading as it
from interruptible_threading import _core
it.install_patches()
caught = []
def body():
    try: time.sleep(10**6)
    except it.ThreadInterrupted: caught.append(True)
thread = threading.Thread(target=body, daemon=True); thread.start()
while not (_core.park_info(thread.ident) or {"parked": False})["parked"]: time.sleep(0.001)
library = ctypes.CDLL(it.status()["library"])
library.itr_interrupt.argtypes = [ctypes.c_ulong]
assert library.itr_interrupt(thread.ident) == 0
thread.join(60)
print(it.status()["library"] == sys.argv[1], it.status()["problems"], caught)
"""


def run(copy: Path, how: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != _preload.VARIABLE}
    if how == "preload":
        environ[_preload.VARIABLE] = str(copy)
    return subprocess.run([sys.executable, "-c", PROGRAM, str(copy), how], env=environ, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("how", ["preload", "ctypes"])
def test_the_copy_that_is_there_is_used(how: str, tmp_path: Path) -> None:
    copy = tmp_path / "libinterruptible.so"
    shutil.copy(status()["library"], copy)
    done = run(copy, how)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True [] [True]\n")


def table() -> list[int]:
    """What the table of our own copy begins with: the version, and the sizes of a slot and of the table."""
    library = ctypes.CDLL(status()["library"])
    library.itr_stub_api.restype = ctypes.POINTER(ctypes.c_uint32 * 3)
    return list(library.itr_stub_api().contents)


#: What is different there: the version, or only the size of a slot, or of the table.
DIFFERENCES = {"version": (96, 0, 0), "slot": (0, 8, 0), "table": (0, 0, -8)}


@pytest.mark.parametrize("how", ["preload", "ctypes"])
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_copy_of_another_version_is_refused(difference: str, how: str, tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    begin = [own + more for own, more in zip(table(), DIFFERENCES[difference])]
    source.write_text(f"unsigned api[512] = {{{', '.join(map(str, begin))}}}; void *itr_stub_api(void) {{ return api; }}\n")
    copy = tmp_path / "libinterruptible.so"
    subprocess.run([*c_compiler(), "-shared", "-fPIC", str(source), "-o", str(copy)], check=True)
    done = run(copy, how)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"has ABI version {begin[0]}{' of another build' * (difference != 'version')}, this" in done.stderr
    assert "preload the copy that came with this package" in done.stderr


def test_a_library_of_that_name_that_is_no_shim(tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int nothing;\n")
    copy = tmp_path / "libinterruptible.so"
    subprocess.run([*c_compiler(), "-shared", "-fPIC", str(source), "-o", str(copy)], check=True)
    done = run(copy, "preload")
    assert done.returncode == 1
    assert "is not this package's shim" in done.stderr
