"""What uninterrupted calls cost, in a thread that can be interrupted or, without the library, in any. Prints JSON."""

from __future__ import annotations

import gc
import json
import os
import queue
import socket
import sys
import threading
import time
from itertools import repeat
from typing import Callable

PRELOADED = "libinterruptible" in os.environ.get("LD_PRELOAD", "")
BATCHES = 15
INTERRUPT_WAITS = "... while an interrupt waits"


def best(body: Callable[[int], object], n: int) -> float:
    """Nanoseconds a round, in the fastest of several batches: whatever else the machine does only adds."""
    times = []
    for _ in range(BATCHES):
        started = time.perf_counter()
        body(n)
        times.append(time.perf_counter() - started)
    return min(times) / n * 1e9


def empty_loop(n: int) -> None:
    for _ in repeat(None, n):
        pass


def calls(function: Callable[[], object]) -> Callable[[int], None]:
    def body(n: int) -> None:
        for _ in repeat(None, n):
            function()

    return body


def with_lock(n: int) -> None:
    lock = threading.Lock()
    for _ in repeat(None, n):
        with lock:
            pass


def with_rlock(n: int) -> None:
    lock = threading.RLock()
    for _ in repeat(None, n):
        with lock:
            pass


def acquire_release(n: int) -> None:
    lock = threading.Lock()
    for _ in repeat(None, n):
        lock.acquire()
        lock.release()


def sleep_nothing(n: int) -> None:
    for _ in repeat(None, n):
        time.sleep(0)


def simple_queue(n: int) -> None:
    items: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in repeat(None, n):
        items.put(None)
        items.get()


def send_and_recv(n: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in repeat(None, n):
            ours.send(b"x")
            theirs.recv(1)


def ping_pong(n: int) -> None:
    """A byte there and back between two threads: two switches a round."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        while theirs.recv(1):
            theirs.send(b"x")

    other = threading.Thread(target=answer)
    other.start()
    for _ in repeat(None, n):
        ours.send(b"x")
        ours.recv(1)
    ours.close()
    other.join()
    theirs.close()


def nothing() -> None:
    pass


def interrupt_waits(n: int) -> tuple[float, float]:
    """Nanoseconds of a call in code that must not be cut: alone, and while an interrupt waits for its end. All in all,
    since there are pauses between the looks."""
    from interruptible_threading import ThreadInterrupted, interrupt, is_interrupted, uninterruptible

    own = threading.current_thread()
    found = [0.0, 0.0]

    @uninterruptible
    def work() -> None:
        for at in range(2):
            started = time.perf_counter()
            calls(nothing)(n)
            found[at] = (time.perf_counter() - started) / n * 1e9
            if at == 0:
                threading.Thread(target=interrupt, args=(own,)).start()
                while not is_interrupted():
                    pass

    try:
        work()
        while True:
            pass
    except ThreadInterrupted:
        return found[0], found[1]


def measure(scale: float) -> dict[str, float]:
    def times(n: int) -> int:
        return max(50, int(n * scale))

    loop = best(empty_loop, times(200_000))
    results = {
        "with lock": best(with_lock, times(50_000)) - loop,
        "lock.acquire, release": best(acquire_release, times(50_000)) - loop,
        "with rlock": best(with_rlock, times(50_000)) - loop,
        "time.sleep(0)": best(sleep_nothing, times(5_000)) - loop,
        "SimpleQueue put, get": best(simple_queue, times(20_000)) - loop,
        "socket send, recv": best(send_and_recv, times(3_000)) - loop,
        "socket ping-pong": best(ping_pong, times(1_000)) - loop,
        # Any METH_NOARGS function that does next to nothing.
        "empty C call": best(calls(gc.isenabled), times(200_000)) - loop,
        "Python call": best(calls(nothing), times(200_000)) - loop,
    }
    if PRELOADED:
        from interruptible_threading import check_interrupt

        results["check_interrupt()"] = best(calls(check_interrupt), times(200_000)) - loop
        results["call under @uninterruptible"], results[INTERRUPT_WAITS] = interrupt_waits(times(1_000_000))
    return results


def main() -> None:
    results: list[dict[str, float]] = []
    # Not in the main thread, which is never interrupted and pays nothing.
    thread = threading.Thread(target=lambda: results.append(measure(float(sys.argv[1]))))
    thread.start()
    thread.join()
    json.dump(results[0], sys.stdout)


if __name__ == "__main__":
    main()
