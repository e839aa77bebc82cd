"""A thread that parks in one call again and again, and the waits for it. Used under the library only."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue
from typing import Callable

from interruptible_threading import ThreadInterrupted, _core, interrupt


class Parker:
    """Parks in ``call``, to be interrupted, and in ``Event.wait()``, to be woken by ``set()``, by turns.

    One thread for both: two would differ in the processor they run on, which makes a factor of two. And the same thread
    over and over: starting one costs more than what is measured.
    """

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self._call = call
        self._event = threading.Event()
        self._stop = False
        self._woken: SimpleQueue[float] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._stat = os.open(f"/proc/self/task/{self._thread.native_id}/stat", os.O_RDONLY | os.O_CLOEXEC)

    def _run(self) -> None:
        clock = time.perf_counter
        while True:
            try:
                self._call()
            except ThreadInterrupted:
                self._woken.put(clock())
            self._event.wait()
            self._woken.put(clock())
            self._event.clear()
            if self._stop:
                return

    def _asleep(self) -> bool:
        return os.pread(self._stat, 512, 0).rpartition(b")")[2].split()[0] == b"S"

    def wait_until_parked(self) -> str:
        """Until the library has seen it announce a call, and the kernel has put it to sleep there. The call's name."""
        ident = self._thread.ident
        assert ident is not None
        while True:
            before = _core.park_info(ident)
            if before is not None and before["parked"] and self._asleep():
                after = _core.park_info(ident)
                if after is not None and after["parked"] and after["parks"] == before["parks"]:
                    return str(after["call"])
            time.sleep(0)

    def _woken_after(self, wake: Callable[[], object]) -> float:
        self.wait_until_parked()
        started = time.perf_counter()
        wake()
        return self._woken.get() - started

    def both(self) -> tuple[float, float]:
        """Seconds from interrupt() to the except clause, and from set() to the line behind wait()."""
        return self._woken_after(lambda: interrupt(self._thread)), self._woken_after(self._event.set)

    def end(self) -> None:
        self._stop = True
        self.both()
        self._thread.join()
        os.close(self._stat)
