"""Loads the C extension and tells it, once, what it cannot know by itself."""

from __future__ import annotations

import opcode
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES


def _has_core() -> bool:
    folder = os.path.dirname(os.path.abspath(__file__))
    return any(os.path.exists(os.path.join(folder, "_core" + suffix)) for suffix in EXTENSION_SUFFIXES)


def load() -> None:
    """Import and set up the extension; ImportError with a remedy when this interpreter has none."""
    try:
        from . import _core
    except ImportError as error:
        # A file that is there but does not load has its own story to tell (a wrong ABI, a missing library).
        if _has_core():
            raise
        raise ImportError(
            f"interruptible_threading has no extension module for {sys.implementation.cache_tag} on {sys.platform}: "
            "install it with this interpreter's own pip",
            name=__package__,
        ) from error

    from . import _exceptions, _protected

    _core.setup(
        opmap=dict(opcode.opmap),
        default_exc=_exceptions.ThreadInterrupted,
        stdlib=_protected.library_prefix(),
        stdlib_names=_protected.library_names(),
    )
    _protected.protect_loaded()


def protect_ourselves() -> None:
    """Add the modules of this package that were imported after load()."""
    from . import _protected

    _protected.protect_loaded()


load()
