"""Threads that wait in calls of CPython's which have gone to libc behind the library's back: the slots are bound late, or not any
more. (Preloaded, nothing is bound and unbound: they are seen.)"""

from __future__ import annotations

import contextlib
import platform
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from binding_support import LONG, MAKERS, Gate, Kind, Make, begin, shim, waits_unseen, where
from interruptible_threading import ThreadInterrupted, deliver_on_blocking, install_patches, interrupt, status, uninstall_patches
from stress_support import GUARD, Books, Victim, until


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        stack.callback(shim.itr_bind)
        yield stack


def begin_unseen(make: Make, stack: contextlib.ExitStack, folder: Path) -> tuple[Kind, Victim, Books]:
    made = make(stack, folder)
    shim.itr_unbind()
    victim = begin(made)
    until(lambda: waits_unseen(victim), victim.where)
    return made, victim, Books(victim)


def delivered(books: Books, victim: Victim, made: Kind, first: Any = None) -> None:
    """What was sent, and what is sent now. No call has returned."""
    for handle in (first, books.interrupt(victim)):
        if handle is not None:
            books.wait(handle, victim)
    books.stop()
    books.balance()
    assert made.got == 0


@pytest.mark.parametrize("make", MAKERS)
def test_bound_when_it_waits_already(make: Make, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    made, victim, books = begin_unseen(make, stack, tmp_path)
    shim.itr_bind()
    delivered(books, victim, made)


@pytest.mark.parametrize("make", MAKERS)
def test_bound_when_it_is_interrupted_already(make: Make, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    made, victim, books = begin_unseen(make, stack, tmp_path)
    handle = books.interrupt(victim)
    if not status()["preloaded"]:
        assert "are not bound" in handle.explain() and handle.state == "pending"
    shim.itr_bind()
    delivered(books, victim, made, handle)


@pytest.mark.parametrize("make", MAKERS)
def test_patches_that_come_and_go(make: Make, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """The wrapper is on its stack all the time: what it waits in is CPython's own call."""
    made, victim, books = begin_unseen(make, stack, tmp_path)
    uninstall_patches()
    try:
        handle = books.interrupt(victim)
    finally:
        install_patches()
    delivered(books, victim, made, handle)


@pytest.mark.parametrize("make", MAKERS)
def test_patches_that_go_while_it_is_seen(make: Make, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """Its park is announced, and is ended without the patches."""
    made = make(stack, tmp_path)
    gate = Gate()
    victim = begin(made, gate)
    books = Books(victim)
    until(lambda: where(victim)["exact"] and where(victim)["parked"], victim.where)
    gate.close([victim])
    uninstall_patches()
    try:
        books.wait(books.interrupt(victim), victim)
    finally:
        install_patches()
    gate.closed = False
    delivered(books, victim, made)


def test_a_call_that_never_comes_back(stack: contextlib.ExitStack) -> None:
    """libc makes sigwait()'s system call again by itself. Then that is said, and what the call gives in the end is kept."""
    got: list[Any] = []

    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            with deliver_on_blocking():
                got.append(signal.sigwait({signal.SIGUSR1}))
                time.sleep(LONG)
        except ThreadInterrupted as error:
            got.append(error.interrupt_id)

    thread = threading.Thread(target=body, daemon=True)
    shim.itr_unbind()
    thread.start()
    if not status()["preloaded"]:
        until(lambda: is_in_sigtimedwait(thread), "it waits")
    shim.itr_bind()
    handle = interrupt(thread)
    if not status()["preloaded"]:
        until(lambda: "in vain" in handle.explain(), handle.explain)
        assert handle.state == "masked" and got == []
        signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
        until(lambda: got, handle.explain)
        assert got[0] == signal.SIGUSR1
    thread.join(GUARD)
    assert not thread.is_alive() and got[-1] == handle.id, (got, handle.explain())


def is_in_sigtimedwait(thread: threading.Thread) -> bool:
    number = {"x86_64": "128", "aarch64": "137"}[platform.machine()]
    with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
        return file.read().split()[0] == number
