#!/usr/bin/env python3
"""Cancel a task of a thread pool that is running already, and keep its worker.

python examples/worker_pool.py
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Callable

from interruptible_threading import InterruptHandle, ThreadInterrupted, critical_section, install_patches, interrupt


class Cancelled(CancelledError):
    """What the future of a task raises that was cancelled while it ran. One that had not begun raises the class above."""


class Task:
    """A call given to a pool. A worker runs many, so an interrupt must reach it only while it runs this one."""

    def __init__(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *args: Any) -> None:
        self._function, self._args = function, args
        self._lock = threading.Lock()  # held by cancel() from the look at _worker to the interrupt
        self._worker: threading.Thread | None = None
        self._handle: InterruptHandle | None = None
        self._cancelled = False
        self.future: Future[Any] = pool.submit(self._run)

    def cancel(self) -> None:
        """Cancel it, running or not. Once is enough."""
        with self._lock:
            if not self.future.cancel() and not self._cancelled:
                self._cancelled = True  # also where a worker has taken it that has not come to say so
                if self._worker is not None:
                    self._handle = interrupt(self._worker, reason="cancelled")

    def _run(self) -> Any:
        try:
            try:
                with self._lock:
                    if self._cancelled:
                        raise Cancelled("cancelled")
                    self._worker = threading.current_thread()
                return self._function(*self._args)
            finally:
                self._leave()
        except ThreadInterrupted as stop:
            # It may have come in the line above, after the task and before the mask. There is no second one.
            self._leave()
            raise Cancelled(stop.reason) from None

    @critical_section()
    def _leave(self) -> None:
        with self._lock:
            self._worker = None
            if self._handle is not None:
                self._handle.cancel()  # not raised yet: it must not hit the worker's next task


def fetch(name: str, seconds: float) -> str:
    time.sleep(seconds)
    return f"{name} is done"


def main() -> int:
    install_patches()  # not needed when started by `interruptible run`
    with ThreadPoolExecutor(max_workers=2) as pool:
        tasks = [Task(pool, fetch, name, seconds) for name, seconds in (("a", 0.1), ("b", 3600.0), ("c", 0.1), ("d", 0.1))]
        print(tasks[0].future.result())
        tasks[1].cancel()  # one of the two workers has been asleep in it
        for task in tasks[1:]:
            try:
                print(task.future.result())
            except CancelledError:
                print("a task was cancelled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
