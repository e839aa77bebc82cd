"""The same calls in plain CPython, with the only thing it has: PyThreadState_SetAsyncExc. Started by demo.py."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from table import coloured, heading, row

from calls import Call, all_calls

PATIENCE = 0.5  # seconds, for all of them together
SETTLED = 0.02  # a thread that waits for the GIL wakes up every 5 ms: one that has not switched for this long is parked


class Stop(BaseException):
    """What is raised in the threads."""


def switches(thread: threading.Thread) -> str:
    text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.MULTILINE)
    return found[1] if found else ""


def wait_until_parked(threads: list[threading.Thread]) -> None:
    before: list[str] = []
    while (now := [switches(thread) for thread in threads]) != before:
        before = now
        time.sleep(SETTLED)


def main() -> int:
    heading(f"Without it, in plain CPython: PyThreadState_SetAsyncExc, then {PATIENCE} s of patience")
    raised: set[int] = set()
    with ExitStack() as undo:
        # What runs Python code is not the contrast: CPython can interrupt that.
        calls = [call for call in all_calls(undo) if not call.runs]

        def body(number: int, call: Call) -> None:
            try:
                call.park()
            except Stop:
                raised.add(number)
            except OSError:
                pass  # the process ends, and closes what others wait for

        threads = [threading.Thread(target=body, args=(number, call), daemon=True) for number, call in enumerate(calls)]
        for thread in threads:
            thread.start()
        wait_until_parked(threads)
        for thread in threads:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        families: dict[str, list[bool]] = {}
        for number, call in enumerate(calls):
            families.setdefault(call.family, []).append(number in raised)
        for family, results in families.items():
            stuck = results.count(False)
            text = f"{stuck} of {len(results)} still blocked after {PATIENCE} s"
            row((family, 12), (text, 0), colours=("dim", "bad" if stuck else "good"))
        print(f"\n{coloured(f'{len(raised)} of {len(calls)} calls interrupted', 'dim')}", flush=True)
        # The blocked threads cannot be stopped: that is the point. Leave without waiting for them.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
