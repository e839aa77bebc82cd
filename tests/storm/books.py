"""What must hold after a storm: each interrupt was delivered once or not at all, and nothing is missing or left over.

I1 (no interrupt is lost or comes twice), I2 (no effect is lost), I3 (a mask is airtight). Another kind of interrupt, with
rules of its own, is another list beside ``handles`` with a check here.
"""

from __future__ import annotations

import fcntl
import gc
import os
import random
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from interruptible_threading import InterruptHandle, ThreadInterrupted, critical_section, deliver_on_blocking, interrupt
from stress_support import GUARD, Books, Victim, children, open_descriptors, until
from work import Work

MASKS = {"critical_section": critical_section, "deliver_on_blocking": deliver_on_blocking}


class Worker(Victim):
    """A thread that does whatever its dice say, in whatever masks they say."""

    def __init__(self, number: int, works: list[Work], dice: random.Random) -> None:
        self.works = works
        self.weights = [work.weight for work in works]
        self.dice = dice
        self.done: Counter[str] = Counter()
        self.leaks: list[str] = []
        super().__init__(Worker.work, name=f"worker-{number}")

    def work(self) -> None:
        (chosen,) = self.dice.choices(self.works, self.weights)
        masks = [self.dice.choice(list(MASKS)) for _ in range(self.dice.choice([0, 0, 0, 1, 2, 3]))]
        if "critical_section" not in masks:
            with ExitStack() as stack:
                for mask in masks:
                    stack.enter_context(MASKS[mask]())
                chosen.do(self.dice, True)
        else:
            self.masked(chosen, masks)
        self.done[type(chosen).__name__] += 1

    def masked(self, chosen: Work, masks: list[str]) -> None:
        """Nothing comes between the first critical_section() and its end."""
        first = masks.index("critical_section")
        with ExitStack() as outside:
            for mask in masks[:first]:
                outside.enter_context(MASKS[mask]())
            with critical_section():
                try:
                    with ExitStack() as inside:
                        for mask in masks[first + 1 :]:
                            inside.enter_context(MASKS[mask]())
                        chosen.do(self.dice, False)
                except ThreadInterrupted as error:
                    self.leaks.append(f"{type(chosen).__name__}: {error!r} came under a mask")


class StormBooks(Books):
    """The interrupts of several senders, some taken back."""

    victims: tuple[Worker, ...]

    def __init__(self, *victims: Worker) -> None:
        super().__init__(*victims)
        self.cancelled: list[InterruptHandle] = []
        self.sent: Counter[str] = Counter()

    def send(self, victim: Worker, dice: random.Random) -> InterruptHandle:
        where = "parked" if victim.parked() else "running"
        # An exception of its own, so that none coalesces with another; the default one does.
        handle = interrupt(victim, ThreadInterrupted() if dice.random() < 0.8 else None)
        self.handles.append(handle)
        self.sent[where] += 1
        if dice.random() < 0.1 and handle.cancel():
            self.cancelled.append(handle)
            self.sent["cancelled"] += 1
        return handle

    def balance(self) -> int:
        states = {handle.id: handle.state for handle in self.handles}
        caught = Counter(number for victim in self.victims for number in victim.caught)
        delivered = Counter(number for number, state in states.items() if state == "delivered")
        wrong = {number: (states.get(number), caught[number]) for number in (caught - delivered) + (delivered - caught)}
        assert not wrong, f"the handle's state, and how often it was caught: {wrong}"
        strange = {number: state for number, state in states.items() if state not in ("delivered", "discarded", "retracted")}
        assert not strange, f"in the air: {strange}"
        # Who coalesced with others has taken back his share only.
        taken_back = {handle.id for handle in self.cancelled}
        retracted = {number for number, state in states.items() if state == "retracted"}
        assert retracted <= taken_back, f"nobody took back {retracted - taken_back}"
        return len(delivered)

    def counters(self) -> dict[str, Any]:
        states = Counter({handle.id: handle.state for handle in self.handles}.values())
        done: Counter[str] = Counter()
        for victim in self.victims:
            done += victim.done
        return {"interrupts": dict(self.sent), "became": dict(states), "done": dict(done)}


def descriptors() -> set[str]:
    """Without the shim's own pipes, which it keeps for the next threads: they do not block, at either end."""
    found = set()
    for entry in open_descriptors():
        with suppress(OSError):
            own = "pipe:" in entry and fcntl.fcntl(int(entry.split()[0]), fcntl.F_GETFL) & os.O_NONBLOCK
            if not own:
                found.add(entry)
    return found


def unreaped() -> set[int]:
    """Children, without those that subprocess reaps later: run() was interrupted a second time, in its own clean-up."""
    subprocess._cleanup()  # type: ignore[attr-defined]
    return children()


def described(processes: set[int]) -> list[str]:
    found = []
    for process in processes:
        with suppress(OSError):
            found.append(Path(f"/proc/{process}/stat").read_text()[:40])
    return found


class Surroundings:
    """Descriptors, threads and children: as many afterwards as before."""

    def __init__(self) -> None:
        gc.collect()
        self.before = descriptors(), threading.active_count(), unreaped()

    def check(self) -> None:
        gc.collect()
        files, threads, processes = self.before
        until(lambda: threading.active_count() <= threads, lambda: f"threads that stay: {threading.enumerate()}")
        until(lambda: unreaped() <= processes, lambda: f"children that stay: {described(unreaped() - processes)}")
        left = descriptors() - files
        assert not left, f"descriptors that stay: {left}"


def check_masks(victims: tuple[Worker, ...]) -> None:
    leaks = [leak for victim in victims for leak in victim.leaks]
    assert not leaks, f"{len(leaks)} interrupts came under a mask: {leaks[:5]}"


def stop(books: StormBooks) -> None:
    """All are told to stop, and interrupted until they have."""
    for victim in books.victims:
        victim.stopping = True
    for victim in books.victims:
        for _ in range(int(GUARD / 0.005)):
            if not victim.is_alive():
                break
            books.handles.append(interrupt(victim, ThreadInterrupted()))
            victim.join(0.005)
        else:
            pytest.fail(f"stuck: {victim.where()}")
    for victim in books.victims:
        victim.check()
