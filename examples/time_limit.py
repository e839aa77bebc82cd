#!/usr/bin/env python3
"""A time limit for a call that may hang, whatever it hangs in: a tool called by an agent, a plugin, a slow host.

python examples/time_limit.py
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, TypeVar

from interruptible_threading import ThreadInterrupted, install_patches, interrupt

T = TypeVar("T")


def call_with_time_limit(seconds: float, function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` in a thread of its own, interrupted when it takes longer; then TimeoutError.

    Its ``with`` and ``finally`` blocks run, so what it held is released. Its result, if it has one by then, is kept.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(ThreadInterrupted):  # before the `try` below was reached
            try:
                outcome.set_result(function(*args))
            except BaseException as exc:
                outcome.set_exception(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # It may finish in this very moment: then nothing is interrupted, and there is a result.
        interrupt(thread, reason=f"longer than {seconds} s")
        thread.join()
    if not outcome.done():  # not even begun: the machine is busy, or the limit very short
        raise TimeoutError(f"longer than {seconds} s")
    try:
        return outcome.result()
    except ThreadInterrupted as stop:
        raise TimeoutError(str(stop.reason)) from None


def quick_tool() -> str:
    time.sleep(0.01)
    return "42"


def hung_tool() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        return connection.recv(100).decode()  # the server never answers


def main() -> int:
    install_patches()  # not needed when started by `interruptible run`
    for tool in (quick_tool, hung_tool):
        started = time.monotonic()
        try:
            result = call_with_time_limit(0.3, tool)
        except TimeoutError as error:
            result = f"TimeoutError: {error}"
        print(f"{tool.__name__}: {result} ({time.monotonic() - started:.2f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
