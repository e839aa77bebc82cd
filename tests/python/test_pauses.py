"""Code that must not be cut, and asks all the time: the looks at it have pauses, and the pauses have an end."""

from __future__ import annotations

import os
import socket
from typing import Callable

import pytest
from interruptible_threading import uninterruptible
from stress_support import Books, Victim, count, switch_interval


@uninterruptible
def section() -> None:
    """Each call asks anew, as it ends, for what is pending."""
    for _ in range(100):
        os.close(os.dup(0))


def sections(victim: Victim) -> None:
    while not victim.stopping:
        section()


def copies(victim: Victim) -> None:
    """Most of this is in the standard library."""
    with socket.socket() as sock:
        while not victim.stopping:
            os.close(sock.dup().detach())


@pytest.mark.parametrize("body", [sections, copies])
def test_pauses_end(body: Callable[[Victim], None]) -> None:
    """From 3.12 on: what was asked in a pause counted as looks in vain, so that the next pause began where one ended."""
    victim = Victim(body)
    books = Books(victim)
    with switch_interval(1e-5):
        for _ in range(count(50)):
            books.wait(books.interrupt(victim), victim)
    books.stop()
    assert books.balance() >= count(50)
