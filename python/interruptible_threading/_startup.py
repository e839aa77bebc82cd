"""What a Python started by the launcher does before anything of the program's own runs."""

from __future__ import annotations

import os

from . import _patches, _preload
from ._thread import InterruptibleThread


def install() -> None:
    """Install the patches; the program may still call install_patches() itself, with its own options."""
    if os.environ.get(_preload.CHILDREN) == "0":
        # The dynamic linker and the interpreter have read them: from here on they only concern children.
        _preload.remove(os.environ)
    _patches.install(lambda: InterruptibleThread.get_thread_cls_for_current_thread("Thread"), by_launcher=True)
