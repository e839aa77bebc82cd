"""What must hold after a storm: each interrupt was delivered once or not at all, and nothing is missing or left over.

I1 (no interrupt is lost or comes twice), I2 (no effect is lost), I3 (a mask is airtight). Another kind of interrupt, with
rules of its own, is another list beside ``handles`` with a check here.
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import math
import os
import random
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from interruptible_threading import InterruptHandle, ThreadInterrupted, critical_section, deliver_on_blocking, interrupt
from stress_support import GUARD, SEED, Books, Victim, children, open_descriptors, until
from work import Work

MASKS = {"critical_section": critical_section, "deliver_on_blocking": deliver_on_blocking}


def rng(*salt: object) -> random.Random:
    """Random numbers that ITR_TEST_SEED repeats."""
    return random.Random(f"{SEED} {salt}")


class Odd(ThreadInterrupted):
    """An exception of the user's."""


class Worker(Victim):
    """A thread that does whatever its dice say, in whatever masks they say, for so many rounds.

    Each round has dice of its own: how much of the last one an interrupt has left undone changes nothing in the next.
    """

    def __init__(self, salt: object, works: list[Work], rounds: float = math.inf) -> None:
        self.salt = salt
        self.works = works
        self.weights = [work.weight for work in works]
        self.last_round = rounds
        self.done: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.errors: list[ThreadInterrupted] = []
        super().__init__(lambda _: self.work(), name=f"worker-{salt}")

    def plan(self, number: int) -> tuple[random.Random, Work, list[str]]:
        """What a round consists of: the dice of the work, the work, its masks."""
        dice = rng("worker", self.salt, number)
        (chosen,) = dice.choices(self.works, self.weights)
        return dice, chosen, [dice.choice(list(MASKS)) for _ in range(dice.choice([0, 0, 0, 1, 2, 3]))]

    def note(self, error: ThreadInterrupted) -> None:
        super().note(error)
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, ThreadInterrupted):
                self.errors.append(link)
            link.__traceback__ = None  # it keeps whatever the work had in its hands: gigabytes, after a while
            link = link.__context__

    def work(self) -> None:
        dice, chosen, masks = self.plan(self.rounds)
        if self.rounds >= self.last_round:
            self.stopping = True
        elif "critical_section" not in masks:
            with ExitStack() as stack:
                for mask in masks:
                    stack.enter_context(MASKS[mask]())
                chosen.do(dice, True)
        else:
            self.masked(chosen, dice, masks)
        self.done[type(chosen).__name__] += 1

    def masked(self, chosen: Work, dice: random.Random, masks: list[str]) -> None:
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
                        chosen.do(dice, False)
                except ThreadInterrupted as error:
                    self.leaks.append(f"{type(chosen).__name__}: {error!r} came under a mask")


class Sent(NamedTuple):
    """An interrupt, and where its target was just before."""

    handle: InterruptHandle
    parked: bool


class StormBooks(Books):
    """The interrupts of several senders, some taken back, at once or later.

    ``alive`` are those that are interrupted; one that has ended makes room for another. ``victims`` are all.
    """

    victims: tuple[Worker, ...]

    def __init__(self, *victims: Worker) -> None:
        super().__init__(*victims)
        self.alive: list[Worker] = list(victims)
        self.sent: list[Sent] = []
        self.cancelled: list[InterruptHandle] = []
        #: Interrupts that nothing became of, though nobody else's came.
        self.lost: list[str] = []
        self.reasons = itertools.count()

    def add(self, worker: Worker, at: int | None = None) -> None:
        """Once it can be interrupted, in the place of another or in one of its own."""
        until(lambda: worker.begun, worker.where)
        self.victims += (worker,)
        if at is None:
            self.alive.append(worker)
        else:
            self.alive[at] = worker

    def send(self, dice: random.Random, by_number: bool = False, at: int | None = None) -> InterruptHandle:
        """By one sender, or from within critical_section(), so that no interrupt is left out of the books."""
        exact, late, which, what, named = (dice.random() for _ in range(5))
        victim = self.alive[int(which * len(self.alive)) if at is None else at]
        parked = victim.parked()
        # An exception of its own, so that none coalesces with another; the default one does.
        exc = ThreadInterrupted() if what < 0.6 else Odd() if what < 0.8 else None
        target: Any = victim
        if by_number and named < 0.4:
            target = victim.ident if named < 0.2 else victim.native_id
        handle = interrupt(target, exc, reason=f"reason {next(self.reasons)}")
        self.handles.append(handle)
        self.sent.append(Sent(handle, parked))
        if exact < 0.1:
            self.cancel(handle)
        if late < 0.1:
            self.cancel(self.handles[-1 - int(late * 10 * min(20, len(self.handles)))])
        return handle

    def cancel(self, handle: InterruptHandle) -> None:
        if handle.cancel():
            self.cancelled.append(handle)

    def balance(self) -> int:
        """Each interrupt ended in one way, and what was caught is what was sent. How many were delivered."""
        ends = {handle.id: handle for handle in self.handles}
        states = {number: handle.state for number, handle in ends.items()}
        strange = {number: state for number, state in states.items() if state not in ("delivered", "discarded", "retracted")}
        assert not strange, f"in the air: {strange}"
        caught = Counter(number or 0 for victim in self.victims for number in victim.caught)
        delivered = Counter(number for number, state in states.items() if state == "delivered")
        wrong = {number: (states.get(number), caught[number]) for number in (caught - delivered) + (delivered - caught)}
        assert not wrong, f"the handle's state, and how often it was caught: {wrong}"
        # Whoever shares an interrupt with others takes it back as the last of them: only that cancel() says True.
        taken_back = Counter(handle.id for handle in self.cancelled)
        retracted = Counter(number for number, state in states.items() if state == "retracted")
        assert taken_back == retracted, f"taken back: {taken_back - retracted}; retracted by nobody: {retracted - taken_back}"
        for victim in self.victims:
            for error in victim.errors:
                check_identity(ends[error.interrupt_id or 0], error)
        return len(delivered)

    def forget(self) -> None:
        """They know their exceptions, whose tracebacks know children that nobody has waited for."""
        self.handles.clear()
        self.sent.clear()
        self.cancelled.clear()
        for victim in self.victims:
            victim.errors.clear()

    def counters(self) -> dict[str, Any]:
        done: Counter[str] = Counter()
        for victim in self.victims:
            done += victim.done
        return {
            "threads": len(self.victims),
            "sent": len(self.handles),
            "became": dict(Counter({handle.id: handle.state for handle in self.handles}.values())),
            "delivered": dict(Counter("parked" if parked else "running" for handle, parked in self.sent if handle.state == "delivered")),
            "done": dict(sorted(done.items())),
        }


def check_identity(handle: InterruptHandle, error: ThreadInterrupted) -> None:
    """What was caught is what the handle stands for."""
    found, wanted = (error.reason, error.source), (handle.reason, handle.source)
    assert found == wanted, f"interrupt {handle.id} carries {found} instead of {wanted}"
    assert error is handle.exc or type(error) is handle.exc, f"{error!r} instead of {handle.exc!r}"


class Interrupts(Work):
    """Threads interrupt each other and themselves, and wait for what becomes of it."""

    weight = 2

    def __init__(self) -> None:
        self.books = StormBooks()

    def do(self, dice: random.Random, endless: bool) -> None:
        with critical_section():
            if not self.books.alive:
                return  # the first of all has just begun
            handle = self.books.send(dice)
        if dice.random() < 0.5:
            handle.wait(dice.random() * 0.003)


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
        # A look-up that was left behind may have a file open for a moment.
        until(lambda: descriptors() <= files, lambda: f"descriptors that stay: {descriptors() - files}")


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
