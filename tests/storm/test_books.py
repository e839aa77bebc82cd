"""The checks of a storm see what they are there for: each is shown the trouble that it has to find."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import books
import more_work
import pytest
import stress_support
from books import Interrupts, StormBooks, Surroundings, Worker, check_masks
from interruptible_threading import critical_section, deliver_on_blocking, interrupt
from more_work import MORE_KINDS, Connections, Conversations, FullPipes, Futures, Lookups, ProcessSemaphores, TcpConnections, Threads, Uncut
from stress_support import Victim, until
from support import in_thread, run_python
from tls_work import Tls
from work import KINDS, Conditions, Files, Locks, Pipes, Processes, Queues, Semaphores, SimpleQueues, Sleeps, Sockets, Tokens, Work


def some_rounds(work: Work) -> None:
    """Alone. Only those who may wait for ever read from a pipe, so every other time it is one, and finds what was put."""
    dice = random.Random(7)
    for number in range(40):
        work.do(dice, isinstance(work, Pipes) and number % 2 == 1)


# ---- work


def drop_token(work: Any) -> None:
    """What has been got is forgotten."""
    while not work.got:
        some_rounds(work)
    work.got.pop()


def repeat_token(work: Any) -> None:
    while not work.got:
        some_rounds(work)
    work.got.append(work.got[0])


def hold_both_locks(work: Any) -> None:
    in_thread(work.locks[1].acquire)


def hold_condition(work: Any) -> None:
    in_thread(work.condition.acquire)


def leave_waiter(work: Any) -> None:
    work.event._cond._waiters.append(threading.Lock())


def keep_permit(work: Any) -> None:
    work.semaphore.acquire()


def reap(work: Any) -> None:
    while not work.started:
        some_rounds(work)
    child = subprocess.Popen(["sleep", "3000"])
    work.started.append(child)
    child.send_signal(15)
    os.waitpid(child.pid, 0)


def start_child(work: Any) -> None:
    child = subprocess.Popen(["true"])
    work.started.append(child)
    child.wait()


def keep_file_locked(work: Any) -> None:
    work.held = open(work.paths[0], "wb")
    fcntl.flock(work.held, fcntl.LOCK_EX)


def write_half(work: Any) -> None:
    work.paths[1].write_bytes(b"line\nli")


def write_unseen(work: Any) -> None:
    work.paths[0].write_bytes(b"line\n")


def skip_number(work: Any) -> None:
    work.connections[2].sock.sendall((1).to_bytes(8, "big"))
    work.connections[2].sent += 1


def run_twice(work: Any) -> None:
    some_rounds(work)
    work.executor.submit(work.task, 5, 0)
    work.executor.shutdown()


def finish_twice(work: Any) -> None:
    some_rounds(work)
    work.finished.append(work.finished[0])


def cut(work: Any) -> None:
    victim = Victim(lambda _: work.guarded(100000))
    until(lambda: victim.begun, victim.where)
    while not work.cuts:
        interrupt(victim).wait(stress_support.GUARD)
    victim.stopping = True
    victim.join()


TOKENS: list[type[Work]] = [Queues, SimpleQueues, Pipes, Sockets, FullPipes, Connections, TcpConnections]
TROUBLE: list[tuple[type[Work], Callable[[Any], None]]] = [
    *((kind, trouble) for kind in TOKENS for trouble in (drop_token, repeat_token)),
    (Locks, hold_both_locks), (Conditions, hold_condition), (Conditions, leave_waiter), (Semaphores, keep_permit),
    (ProcessSemaphores, keep_permit), (Processes, reap), (Conversations, start_child), (Files, keep_file_locked),
    (Files, write_half), (Files, write_unseen), (Tls, skip_number), (Futures, run_twice), (Threads, finish_twice), (Uncut, cut),
]  # fmt: skip


def make(kind: Any, certificate: tuple[Path, Path]) -> Any:
    return kind(certificate) if kind is Tls else kind()


@pytest.mark.parametrize(("kind", "trouble"), TROUBLE)
def test_trouble_is_seen(
    kind: type[Work], trouble: Callable[[Any], None], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(more_work, "GUARD", 0.2)
    work = make(kind, certificate)
    trouble(work)
    with pytest.raises((AssertionError, BlockingIOError)):
        work.check()
    work.close()


@pytest.mark.parametrize("kind", [*KINDS, *MORE_KINDS, Tls])
def test_no_trouble_is_made_up(kind: type[Work], certificate: tuple[Path, Path]) -> None:
    work = make(kind, certificate)
    some_rounds(work)
    work.check()
    work.close()


def test_every_kind_has_its_trouble() -> None:
    """Sleeps have nothing to check, look-ups do it at once, and interrupts are the books' own."""
    assert {kind for kind, _ in TROUBLE} == {*KINDS, *MORE_KINDS, Tls} - {Sleeps, Lookups, Interrupts}
    assert {kind for kind in (*KINDS, *MORE_KINDS) if issubclass(kind, Tokens)} == set(TOKENS)


# ---- interrupts


@contextmanager
def small_storm() -> Iterator[StormBooks]:
    works: list[Work] = [Sleeps(), SimpleQueues(), Locks()]
    kept = StormBooks()
    for number in range(3):
        kept.add(Worker(("small", number), works))
    dice = random.Random(7)
    try:
        for _ in range(100000):
            kept.send(dice)
            states = {handle.state for handle in kept.handles}
            if len(kept.handles) >= 50 and {"delivered", "retracted"} <= states and kept.cancelled:
                break
    finally:
        books.stop(kept)
    kept.balance()
    check_masks(kept.victims)
    yield kept


def catch_twice(kept: StormBooks) -> None:
    caught = next(victim.caught for victim in kept.victims if victim.caught)
    caught.append(caught[0])


def lose_interrupt(kept: StormBooks) -> None:
    next(victim.caught for victim in kept.victims if victim.caught).pop()


def catch_what_was_taken_back(kept: StormBooks) -> None:
    kept.victims[0].caught.append(kept.cancelled[0].id)


def deliver_what_was_taken_back(kept: StormBooks) -> None:
    kept.cancelled.append(next(handle for handle in kept.handles if handle.state == "delivered"))


def retract_by_nobody(kept: StormBooks) -> None:
    kept.cancelled.pop()


def mix_up_reasons(kept: StormBooks) -> None:
    errors = [error for victim in kept.victims for error in victim.errors]
    errors[0].reason, errors[1].reason = errors[1].reason, errors[0].reason


def mix_up_exceptions(kept: StormBooks) -> None:
    errors = next(victim.errors for victim in kept.victims if victim.errors)
    other = type(errors[0])()
    for name in ("interrupt_id", "reason", "source"):
        setattr(other, name, getattr(errors[0], name))
    handle = next(handle for handle in kept.handles if handle.id == other.interrupt_id)
    errors[0] = other if isinstance(handle.exc, BaseException) else books.Odd()
    errors[0].interrupt_id, errors[0].reason, errors[0].source = handle.id, handle.reason, handle.source


@pytest.mark.parametrize(
    "trouble",
    [
        catch_twice,
        lose_interrupt,
        catch_what_was_taken_back,
        deliver_what_was_taken_back,
        retract_by_nobody,
        mix_up_reasons,
        mix_up_exceptions,
    ],
)
def test_trouble_with_interrupts_is_seen(trouble: Callable[[StormBooks], None]) -> None:
    with small_storm() as kept:
        trouble(kept)
        with pytest.raises(AssertionError):
            kept.balance()


def test_an_interrupt_in_the_air_is_seen() -> None:
    waits = threading.Event()

    def wait(victim: Victim) -> None:
        with critical_section():
            waits.wait()

    victim = Victim(wait)
    until(victim.parked, victim.where)
    kept = StormBooks()
    kept.handles.append(interrupt(victim))
    with pytest.raises(AssertionError, match="in the air"):
        kept.balance()
    victim.stopping = True
    waits.set()
    victim.join()


def test_a_mask_that_leaks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "critical_section", deliver_on_blocking)
    monkeypatch.setitem(books.MASKS, "critical_section", deliver_on_blocking)
    kept = StormBooks()
    worker = Worker("leaky", [Sleeps()])
    kept.add(worker)
    until(lambda: kept.send(random.Random()) and worker.leaks, "a leak")
    books.stop(kept)
    with pytest.raises(AssertionError, match="under a mask"):
        check_masks(kept.victims)


# ---- surroundings


def leave_descriptor() -> Callable[[], object]:
    fd = os.open("/dev/null", os.O_RDONLY)
    return lambda: os.close(fd)


def leave_thread() -> Callable[[], object]:
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    return done.set


def leave_child() -> Callable[[], object]:
    child = subprocess.Popen(["true"])
    return child.wait


@pytest.mark.parametrize("leave", [leave_descriptor, leave_thread, leave_child])
def test_what_stays_is_seen(leave: Callable[[], Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> None:
    surroundings = Surroundings()
    undo = leave()
    monkeypatch.setattr(stress_support, "GUARD", 0.2)
    with pytest.raises(pytest.fail.Exception, match="stay"):
        surroundings.check()
    undo()
    surroundings.check()


# ---- repeating


def test_the_seed_repeats_what_a_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Work] = [Sleeps(), SimpleQueues(), Locks()]

    def plan(seed: int, salt: object) -> list[object]:
        monkeypatch.setattr(books, "SEED", seed)
        worker = Worker(salt, works, 0)
        rounds = [worker.plan(number) for number in range(50)]
        worker.join()
        return [(type(work), masks, dice.random()) for dice, work, masks in rounds]

    first = plan(1, (0, 1))
    assert plan(1, (0, 1)) == first
    assert plan(1, (0, 2)) != first
    assert plan(2, (0, 1)) != first


# ---- what CPython can do by itself

PLAIN = """
import os, random, sys, threading, time
sys.path[:0] = sys.argv[1:]
from interruptible_threading import ThreadInterrupted
from stress_support import plain_interrupt, spin
from work import SimpleQueues
dice = random.Random(7)
def body(work, stop):
    while not stop:
        try:
            work.do(dice, False)
        except ThreadInterrupted:
            pass
for _ in range(300):
    work, stop = SimpleQueues(), []
    threads = [threading.Thread(target=body, args=(work, stop), daemon=True) for _ in range(4)]
    for thread in threads: thread.start()
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        plain_interrupt(dice.choice(threads))
        spin(dice.randrange(300))
    stop.append(1)
    for thread in threads: thread.join(1)
    if any(thread.is_alive() for thread in threads):
        continue  # that may be lost as well, the end of a mask for example
    try:
        work.check()
    except AssertionError as error:
        print("seen:", error, flush=True)
        break
os._exit(0)
"""


def test_what_plain_async_exceptions_lose_is_seen() -> None:
    """The same work, interrupted as CPython can do it by itself: what was got is lost, and the books say so."""
    here = Path(__file__).parent
    done = run_python("-c", PLAIN, str(here), str(here.parent / "python"))
    assert "seen: SimpleQueues: lost" in done.stdout, done.stdout + done.stderr
