"""Threads under many interrupts, and the books that must balance afterwards.

ITR_TEST_SEED repeats a run, ITR_TEST_COUNT makes it longer: both come from the environment.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest
from interruptible_threading import InterruptHandle, ThreadInterrupted, _core, interrupt

#: Seconds after which something hangs. Never a bound on how fast anything has to be.
GUARD = 60.0
SEED = int(os.environ.get("ITR_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
ALL = 2  # the mask that lets nothing through


def count(default: int) -> int:
    """How many rounds: ITR_TEST_COUNT, or a number that takes a moment."""
    return int(os.environ.get("ITR_TEST_COUNT") or default)


def rng(*salt: object) -> random.Random:
    """Random numbers that ITR_TEST_SEED repeats. pytest shows the seed when the test fails."""
    print(f"ITR_TEST_SEED={SEED}")
    return random.Random(f"{SEED} {salt}")


def until(condition: Callable[[], Any], what: Callable[[], object] | str) -> None:
    """Poll until the condition holds; fail, saying what, after the hang guard."""
    end = time.monotonic() + GUARD
    spins = 0
    while not condition():
        spins += 1
        if spins > 50:
            time.sleep(0.0002)
            if time.monotonic() > end:
                pytest.fail(f"in vain: {what if isinstance(what, str) else what()}")


def spin(turns: int) -> None:
    """A delay shorter than any sleep."""
    for _ in range(turns):
        pass


@contextmanager
def switch_interval(seconds: float | None) -> Iterator[None]:
    """Threads take turns this often."""
    before = sys.getswitchinterval()
    if seconds is not None:
        sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def chain(error: BaseException | None) -> list[int | None]:
    """The interrupts in an exception: one that hits while another is on its way has it as its context."""
    found: list[int | None] = []
    while error is not None:
        if isinstance(error, ThreadInterrupted):
            found.append(getattr(error, "interrupt_id", None))
        error = error.__context__
    return found


class Victim(threading.Thread):
    """Calls ``body(self)`` again and again until ``stopping``. Every interrupt comes out in here and is counted, wherever
    it hits: outside of the body a mask holds it back, and no instruction between a catch and the mask is fit for another.

    A body that loops itself looks at ``stopping``.
    """

    def __init__(self, body: Callable[[Victim], object], *, name: str | None = None) -> None:
        super().__init__(name=name or getattr(body, "__name__", None), daemon=True)
        self.body = body
        self.stopping = False
        self.caught: list[int | None] = []
        self.rounds = 0
        #: An interrupt that comes before is raised in place of run(), or at its beginning, where nobody catches it.
        self.begun = False
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        _core.mask(ALL)
        self.begun = True
        while not self.stopping and self.failure is None:
            try:
                _core.unmask(ALL)
                self.body(self)
                _core.mask(ALL)
            except ThreadInterrupted as error:
                _core.mask(ALL)
                self.note(error)
            except BaseException as error:
                _core.mask(ALL)
                self.failure = error
            self.rounds += 1

    def note(self, error: ThreadInterrupted) -> None:
        """It was caught. Nothing else comes meanwhile."""
        self.caught += chain(error)

    def where(self) -> str:
        """For messages."""
        frame = sys._current_frames().get(self.ident or 0)
        at = f"{frame.f_code.co_name}:{frame.f_lineno}" if frame is not None else "gone"
        return f"{self.name} at {at}, {_core.park_info(self.ident or 0)}"

    def parked(self) -> bool:
        """Whether it is in a blocking libc call at this moment."""
        info = _core.park_info(self.ident or 0)
        return bool(info and info["parked"])

    def check(self) -> None:
        """Raise what the body raised that is no interrupt."""
        if self.failure is not None:
            raise self.failure


class Books:
    """The interrupts sent, against those caught."""

    def __init__(self, *victims: Victim) -> None:
        self.victims = victims
        self.handles: list[InterruptHandle] = []

    def interrupt(self, victim: Victim, exc: Any = None) -> InterruptHandle:
        handle = interrupt(victim, exc)
        self.handles.append(handle)
        return handle

    def wait(self, handle: InterruptHandle, victim: Victim) -> None:
        """Until it is delivered."""
        if not handle.wait(GUARD):
            pytest.fail(f"not delivered: {handle.explain()}; {victim.where()}")

    def stop(self) -> None:
        """End the victims, with as many interrupts as it takes."""
        end = time.monotonic() + GUARD
        for victim in self.victims:
            victim.stopping = True
        for victim in self.victims:
            while victim.is_alive():
                self.interrupt(victim)
                victim.join(0.005)
                if time.monotonic() > end:
                    pytest.fail(f"stuck: {victim.where()}")
        for victim in self.victims:
            victim.check()

    def balance(self) -> int:
        """Every interrupt was delivered exactly once or was discarded at the end. How many were delivered."""
        states = {handle.id: handle.state for handle in self.handles}
        strange = {number: state for number, state in states.items() if state not in ("delivered", "discarded")}
        assert not strange, f"neither delivered nor discarded: {strange}"
        caught = Counter(number for victim in self.victims for number in victim.caught)
        delivered: Counter[int | None] = Counter(number for number, state in states.items() if state == "delivered")
        assert caught == delivered, f"caught but not delivered {caught - delivered}; delivered but not caught {delivered - caught}"
        return len(delivered)


def storm(
    books: Books,
    rounds: int,
    random: random.Random,
    *,
    feed: Callable[[], object] = lambda: None,
    waits: float = 0.5,
    exceptions: tuple[Any, ...] = (None,),
) -> None:
    """Interrupt one of the victims in each round, about when ``feed()`` completes what it is doing."""
    for _ in range(rounds):
        victim = random.choice(books.victims)
        if random.random() < 0.5:
            for _ in range(20):  # it may be one that never waits
                if victim.parked():
                    break
                time.sleep(0)
        order = random.randrange(3)
        if order == 0:
            feed()
            spin(random.randrange(60))
        handle = books.interrupt(victim, random.choice(exceptions))
        if order == 1:
            spin(random.randrange(60))
            feed()
        if random.random() < waits:
            if order == 2 and random.random() < 0.5:
                feed()
            books.wait(handle, victim)
        victim.check()


_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_async_exc.restype = ctypes.c_int


def plain_interrupt(thread: threading.Thread, exc: type[BaseException] = ThreadInterrupted) -> bool:
    """What one does without this library; False when there is no such thread."""
    return bool(_set_async_exc(thread.ident or 0, exc))


def open_descriptors() -> set[str]:
    """The process's own, without the shim's self-pipes and the listing's own descriptor."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink('/proc/self/fd/' + name)}")
        except OSError:
            pass
    return found


def children() -> set[int]:
    """This process's children, alive or zombie."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(name))
    return found
