"""Park a thread in each call, interrupt it, and show how long it took. Started by demo.py under the launcher."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from interruptible_threading import ThreadInterrupted, _core, interrupt, status
from table import coloured, duration, heading, row

from calls import Call, all_calls

ROUNDS = 5
GIVE_UP = 20.0  # seconds until a thread counts as not interrupted
WIDTHS = (28, 15, -7, 17)


@dataclass
class Outcome:
    where: str = ""
    latencies: list[float] = field(default_factory=list)
    raised: str = ""
    problem: str = ""


def wait_until_parked(thread: threading.Thread) -> str:
    """The libc call that ``thread`` sleeps in.

    The library knows what a thread has announced, the kernel whether it is asleep: a fixed delay would only guess.
    """
    assert thread.ident is not None
    while thread.is_alive():
        before = _core.park_info(thread.ident)
        if before is not None and before["parked"] and _asleep(thread):
            after = _core.park_info(thread.ident)
            if after is not None and after["parked"] and after["parks"] == before["parks"]:
                return str(after["call"])
        time.sleep(0)
    return "(ended by itself)"


def _asleep(thread: threading.Thread) -> bool:
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    except OSError:
        return False  # it has just ended
    return stat.rpartition(")")[2].split()[0] == "S"


def interrupt_once(call: Call, outcome: Outcome) -> None:
    caught: list[tuple[float, BaseException]] = []
    begun = threading.Event()

    def body() -> None:
        begun.set()
        try:
            call.park()
        except BaseException as exc:
            caught.append((time.perf_counter(), exc))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    if call.runs:
        begun.wait()
        outcome.where = "(running)"
    else:
        outcome.where = wait_until_parked(thread)
    sent = time.perf_counter()
    handle = interrupt(thread, reason="demo")
    thread.join(GIVE_UP)
    if not caught:
        outcome.problem = handle.explain() if thread.is_alive() else "returned"
        return
    when, exc = caught[0]
    outcome.raised = type(exc).__name__
    outcome.latencies.append(when - sent)
    if not isinstance(exc, ThreadInterrupted):
        outcome.problem = f"not an interrupt: {exc!r}"
    elif exc.__context__ is not None:
        outcome.problem = f"raised on top of {exc.__context__!r}"


def try_call(call: Call) -> bool:
    outcome = Outcome()
    after = ""
    for _ in range(ROUNDS):
        if not outcome.problem:
            interrupt_once(call, outcome)
    if not outcome.problem and call.afterwards is not None:
        try:
            after = call.afterwards()
        except Exception as exc:
            outcome.problem = f"not as it was: {exc!r}"
    good = not outcome.problem
    latency = duration(statistics.median(outcome.latencies)) if outcome.latencies else "-"
    cells = (call.name, outcome.where, latency, outcome.raised)
    row(
        *zip(cells, WIDTHS),
        (after if good else outcome.problem, 0),
        colours=("", "dim", "good" if good else "bad", "good" if good else "bad", "dim" if good else "bad"),
    )
    return good


def main() -> int:
    heading(f"With interruptible-threading, Python {sys.version.split()[0]}: median of {ROUNDS}, interrupt() to the except clause")
    row(*zip(("call", "parked in", "after", "exception"), WIDTHS), ("afterwards", 0), colours=("dim",) * 5)
    bad = 0
    with ExitStack() as undo:
        calls = all_calls(undo)
        for call in calls:
            bad += not try_call(call)
    if not any(call.family == "TLS" for call in calls):
        print("\nThe TLS calls were left out: there is no openssl command to make a certificate with.")
    for problem in status()["problems"]:
        print(f"\nproblem: {problem}")
    summary = f"{len(calls) - bad} of {len(calls)} calls interrupted"
    print(f"\n{coloured(summary, 'bad' if bad else 'good')}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
