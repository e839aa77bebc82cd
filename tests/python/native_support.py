"""The tests' own C library (native/storm.c): threads that never hold the GIL, and a tracer in C."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from interruptible_threading import status
from support import c_compiler

#: Where CMake has built it.
BUILT = os.environ.get("ITR_TEST_NATIVE")
SOURCE = Path(__file__).with_name("native") / "storm.c"
#: itr_interrupt() and its like, as C has them.
SHIM = ctypes.CDLL(status()["library"])


@lru_cache(None)
def library() -> ctypes.CDLL:
    """It is built here when nobody has done so."""
    loaded = ctypes.CDLL(BUILT or _build())
    loaded.storm_start.restype = ctypes.c_void_p
    loaded.storm_start.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ulong), ctypes.c_uint, ctypes.c_uint64, ctypes.c_uint32,
    ]  # fmt: skip
    loaded.storm_counts.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)]
    loaded.storm_stop.argtypes = loaded.storm_free.argtypes = [ctypes.c_void_p]
    loaded.storm_counts.restype = loaded.storm_stop.restype = loaded.storm_free.restype = None
    loaded.count_events.restype = ctypes.c_uint64
    return loaded


_folder: Optional[tempfile.TemporaryDirectory[str]] = None  # it goes when the process ends


def _build() -> str:
    global _folder
    _folder = tempfile.TemporaryDirectory()
    path = os.path.join(_folder.name, "libstorm.so")
    subprocess.run([*c_compiler(), "-O1", "-g", "-fPIC", "-shared", "-pthread", "-o", path, str(SOURCE)], check=True)
    return path


class NativeStorm:
    """Calls itr_interrupt(), or sends a signal, to one of the threads at random moments until it is stopped."""

    def __init__(self, threads: Iterable[threading.Thread], random: random.Random, *, signal: int = 0, pause: float = 100e-6) -> None:
        idents = [thread.ident or 0 for thread in threads]
        send = None if signal else ctypes.cast(SHIM.itr_interrupt, ctypes.c_void_p)
        self._targets = (ctypes.c_ulong * len(idents))(*idents)
        self._storm = library().storm_start(send, signal, self._targets, len(idents), random.getrandbits(64), int(pause * 1e9))
        assert self._storm, "no thread to be had"

    def _counts(self) -> Any:
        counts = (ctypes.c_uint64 * 3)()
        library().storm_counts(self._storm, counts)
        return counts

    @property
    def sent(self) -> int:
        """Those that found none pending; the others have been coalesced with it."""
        return int(self._counts()[0])

    @property
    def refused(self) -> int:
        """Errors."""
        return int(self._counts()[2])

    def stop(self) -> None:
        """Nothing comes any more."""
        library().storm_stop(self._storm)
