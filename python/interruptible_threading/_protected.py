"""The modules whose Python code must not be cut between two instructions.

They hold locks, descriptors and children between a call and its bookkeeping. The C extension knows them by the identity of
their globals, so a program's module of the same name, or one that copies their code, is not among them. What they call of the
program's may be cut, but for what the queues call in the middle of their work: an item's comparison or unpickling.

Modules imported later must join before their first line runs; a scan at the time of an interrupt would be too late for a
deadline that was armed before the import. So a finder comes first on sys.meta_path while the patches are installed: one
set look-up for other modules, and for these it lends the module's own loader a step that announces the new globals.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Callable

from . import _core

_MODULES = frozenset(
    {
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_threading_local",
        "_weakrefset",
        "contextlib",
        "functools",
        "queue",
        "selectors",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "weakref",
        "zipimport",
    }
)
_PACKAGES = frozenset({"asyncio", "concurrent", "importlib", "logging", "multiprocessing"})
#: Nothing under them is cut: they have taken the item off.
_WHOLE = frozenset({"queue", "asyncio.queues", "multiprocessing.connection", "multiprocessing.queues"})
_OURSELVES = __name__.partition(".")[0]

#: Where the standard library's modules come from. A frozen program may have them in an archive and a folder.
_PLACES = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep
    for file in (getattr(os, "__file__", None), getattr(threading, "__file__", None))
    if file
)


def library_prefix() -> str | None:
    """What code objects of the standard library have in front of their file's name.

    It may be nothing, or the place of the program's own modules, in a program that was frozen; and None when it has no files.
    """
    prefix, found, _ = functools.update_wrapper.__code__.co_filename.rpartition("functools.py")
    return prefix if found else None


def library_names() -> frozenset[str]:
    """The modules and packages of the standard library."""
    if sys.version_info >= (3, 10):
        return sys.stdlib_module_names
    folder = os.path.dirname(getattr(threading, "__file__", None) or "")
    names = os.listdir(folder) if os.path.isdir(folder) and not hasattr(sys, "frozen") else []
    if "lib-dynload" not in names:  # that place may be the program's, too
        names = [*_MODULES, *_PACKAGES]
    return frozenset(name.partition(".")[0] for name in names if name not in ("test", "site-packages", "dist-packages"))


def _is_protected(name: str) -> bool:
    package = name.partition(".")[0]
    return name in _MODULES or package in _PACKAGES or package == _OURSELVES


def _is_genuine(name: str, origin: str | None) -> bool:
    """Whether a module of a protected name is the real one, not a program's ``queue.py`` or ``logging.py``."""
    if name.partition(".")[0] == _OURSELVES or origin is None or origin in ("frozen", "built-in"):
        return True
    return os.path.abspath(origin).startswith(_PLACES)


def _announce(name: str, module: ModuleType) -> None:
    _core.protect(vars(module), name in _WHOLE)


def protect_loaded() -> None:
    """Announce every protected module imported so far; announcing one twice is harmless."""
    for name, module in list(sys.modules.items()):
        if not _is_protected(name) or not isinstance(module, ModuleType):
            continue
        spec = module.__spec__
        if _is_genuine(name, spec.origin if spec is not None else None):
            _announce(name, module)


_actions: dict[str, Callable[[], object]] = {}


def when_loaded(name: str, action: Callable[[], object] | None) -> None:
    """Have the module of this protected name seen to, now if it is imported already. None: not any more."""
    if action is None:
        _actions.pop(name, None)
        return
    _actions[name] = action
    if name in sys.modules:
        action()


class _AnnouncingLoader:
    """Stands in for a module's loader until the module exists, then steps aside."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        # What a module and its spec show as their loader is the real one, from the first moment on.
        spec.loader = self._loader  # type: ignore[assignment]
        try:
            return self._loader.create_module(spec)  # type: ignore[attr-defined, no-any-return]
        finally:
            spec.loader = self  # type: ignore[assignment]

    def exec_module(self, module: ModuleType) -> None:
        _announce(module.__name__, module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # type: ignore[assignment]
        module.__loader__ = self._loader  # type: ignore[assignment]
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        if module.__name__ in _actions:
            _actions[module.__name__]()


class _AnnouncingFinder:
    """Asks the other finders, and adds the announcement to what they find."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if not _is_protected(name):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        # A reload executes in globals that are known already; a loader without exec_module is none of the stdlib's.
        if target is None and hasattr(spec.loader, "exec_module") and _is_genuine(name, spec.origin):
            spec.loader = _AnnouncingLoader(spec.loader)  # type: ignore[assignment]
        return spec


_finder = _AnnouncingFinder()


def install() -> None:
    """Announce what is loaded, and from now on what gets loaded."""
    sys.meta_path.insert(0, _finder)
    protect_loaded()


def uninstall() -> None:
    """Take the finder away; what was announced stays protected."""
    # By identity: a program's finder may compare equal to anything.
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _finder]


def finder_installed() -> bool:
    """Whether later imports are announced by the finder."""
    path = sys.meta_path
    # It is the first one, as a rule; every interrupt() asks.
    return (len(path) > 0 and path[0] is _finder) or any(finder is _finder for finder in path)
