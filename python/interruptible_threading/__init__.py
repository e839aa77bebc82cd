"""Interrupt any CPython thread, whatever it is blocked in: it wakes within microseconds and raises."""

from __future__ import annotations

# First: it loads the extension that the others use, or says in one sentence why it cannot.
from . import _engine  # isort: skip
from ._aio import run_interruptible
from ._checks import check_interrupt, clear_interrupt, interruptible_checkpoint, is_interrupted, periodic_checkpoint
from ._core import Handle as InterruptHandle
from ._exceptions import ThreadInterrupted
from ._exceptions import _ThreadInterruptedKeyboard as _ThreadInterruptedKeyboard  # pickled under this name
from ._libraries import register_library
from ._masks import critical_section, deliver_on_blocking, interrupts_disabled, uninterruptible
from ._polling import set_poll_interval
from ._sockets import interruptible_accept, interruptible_recv, interruptible_send
from ._status import status
from ._targets import interrupt
from ._thread import InterruptibleThread

__version__ = "0.1.0"

install_patches = InterruptibleThread.install_patches
uninstall_patches = InterruptibleThread.uninstall_patches

__all__ = [
    "InterruptHandle",
    "InterruptibleThread",
    "ThreadInterrupted",
    "check_interrupt",
    "clear_interrupt",
    "critical_section",
    "deliver_on_blocking",
    "install_patches",
    "interrupt",
    "interruptible_accept",
    "interruptible_checkpoint",
    "interruptible_recv",
    "interruptible_send",
    "interrupts_disabled",
    "is_interrupted",
    "periodic_checkpoint",
    "register_library",
    "run_interruptible",
    "set_poll_interval",
    "status",
    "uninstall_patches",
    "uninterruptible",
]

# Every module of the package exists now, and none of them may be cut between two instructions.
_engine.protect_ourselves()
