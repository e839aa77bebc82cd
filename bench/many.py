"""A thousand parked threads: what they cost while nothing happens, and how long it takes to interrupt them. Prints JSON."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Callable

from interruptible_threading import ThreadInterrupted, _core, interrupt
from statistic import summary

FAR = 3600.0


def switches(threads: list[threading.Thread]) -> int:
    total = 0
    for thread in threads:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def wait_until_parked(threads: list[threading.Thread]) -> None:
    for thread in threads:
        while not (info := _core.park_info(thread.ident or 0)) or not info["parked"]:
            time.sleep(0)


def start(number: int, calls: list[Callable[[], object]], woken: queue.SimpleQueue[float]) -> list[threading.Thread]:
    def body(call: Callable[[], object]) -> None:
        with contextlib.suppress(ThreadInterrupted):
            call()
        woken.put(time.perf_counter())

    threads = [threading.Thread(target=body, args=(calls[at % len(calls)],), daemon=True) for at in range(number)]
    for thread in threads:
        thread.start()
    wait_until_parked(threads)
    return threads


def timed(wakes: list[Callable[[], object]], woken: queue.SimpleQueue[float]) -> dict[str, float]:
    """Wake one after the other, without waiting for any. Until the last runs, and until each does from its own wake-up."""
    started = time.perf_counter()
    for wake in wakes:
        wake()
    sent = time.perf_counter()
    ends = [woken.get() for _ in wakes]
    return {"calls_ms": (sent - started) * 1e3, "all_ms": (max(ends) - started) * 1e3, **summary([end - started for end in ends])}


def main() -> None:
    number, seconds = int(sys.argv[1]), float(sys.argv[2])
    threading.stack_size(256 * 1024)
    items: queue.Queue[None] = queue.Queue()
    ours, _theirs = socket.socketpair()
    timed_socket, _peer = socket.socketpair()
    timed_socket.settimeout(FAR)
    waits: list[Callable[[], object]] = [
        lambda: time.sleep(FAR),
        lambda: threading.Event().wait(),
        lambda: threading.Event().wait(FAR),
        items.get,
        lambda: ours.recv(1),
        lambda: timed_socket.recv(1),
        lambda: select.select([ours], [], [], FAR),
    ]
    woken: queue.SimpleQueue[float] = queue.SimpleQueue()
    threads = start(number, waits, woken)
    before = switches(threads)
    time.sleep(seconds)
    idle = switches(threads) - before
    interrupts = timed([lambda thread=thread: interrupt(thread) for thread in threads], woken)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    events = [threading.Event() for _ in range(number)]
    threads = start(number, [event.wait for event in events], woken)
    floor = timed([event.set for event in events], woken)
    for thread in threads:
        thread.join()
    json.dump({"threads": number, "seconds": seconds, "idle_switches": idle, "interrupt": interrupts, "event_set": floor}, sys.stdout)


if __name__ == "__main__":
    main()
