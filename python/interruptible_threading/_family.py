"""Who started whom, for interrupt(recursive=True).

A thread's children are in a dict of its own, by a number that no other has. Anybody may add one, as whoever starts an
InterruptibleThread does for the thread that made it; no lock is needed, since each step is one operation of a dict. Children
are held weakly, and forgotten for good when there are twice as many as at the last look.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from threading import Thread, get_ident
from typing import Any, Callable

from ._targets import is_started, running_thread

# On the parent object itself: subclasses of Thread may be unhashable, and idents are reused.
_CHILDREN = "_interruptible_children"
_PRUNE_AT = "_interruptible_prune_at"
_FEWEST_TO_PRUNE = 16

#: A Thread with this attribute calls adopt() itself.
ADOPTS_ITSELF = "_interruptible_parent"


def current() -> Thread | None:
    """The Thread object of the caller, if it has one and is not the main thread (which is never interrupted)."""
    thread = running_thread(get_ident())
    return None if thread is threading.main_thread() else thread


_numbers = itertools.count()


def _unfinished(parent: Thread) -> dict[int, Thread]:
    references: dict[int, weakref.ref[Thread]] = vars(parent).get(_CHILDREN, {}).copy()
    children = ((number, ref()) for number, ref in references.items())
    return {number: child for number, child in children if child is not None and (not is_started(child) or child.is_alive())}


def adopt(parent: Thread | None, child: Thread) -> None:
    """Note that ``child`` is about to be started on behalf of ``parent``."""
    if parent is None or is_started(child):
        return
    own: dict[str, Any] = vars(parent)
    children: dict[int, weakref.ref[Thread]] = own.setdefault(_CHILDREN, {})
    if len(children) >= own.get(_PRUNE_AT, _FEWEST_TO_PRUNE):
        known = children.copy()
        unfinished = _unfinished(parent)
        for number in known.keys() - unfinished.keys():
            children.pop(number, None)
        own[_PRUNE_AT] = max(_FEWEST_TO_PRUNE, 2 * len(unfinished))
    children[next(_numbers)] = weakref.ref(child)


def children_of(parent: Thread) -> list[Thread]:
    """The children of ``parent`` that have not finished, oldest first."""
    return list(_unfinished(parent).values())


def descendants_first(root: Thread, visit: Callable[[Thread], object]) -> None:
    """Call ``visit`` for every unfinished descendant of ``root``, children before parents, not for ``root`` itself."""
    seen = {id(root)}
    keep = []  # ids are compared, so the objects must live on

    def descend(parent: Thread) -> None:
        # A child started while its elders are visited is found by looking again.
        while True:
            fresh = [child for child in children_of(parent) if id(child) not in seen]
            if not fresh:
                return
            for child in fresh:
                seen.add(id(child))
                keep.append(child)
                descend(child)
                visit(child)

    descend(root)


class _StartPatch:
    """Thread.start, wrapped: it is the one method every Thread goes through exactly once."""

    def __init__(self) -> None:
        self.original = Thread.start
        self.in_place = False
        self.recording = False

    def install(self) -> None:
        # Still in place when somebody had wrapped ours at the last uninstall: wrapping it again would never end.
        if not self.in_place:
            self.original = Thread.start
            Thread.start = _start  # type: ignore[method-assign]
            self.in_place = True
        self.recording = True

    def uninstall(self) -> None:
        self.recording = False
        if Thread.start is _start:
            Thread.start = self.original  # type: ignore[method-assign]
            self.in_place = False


_patch = _StartPatch()


@functools.wraps(Thread.start)
def _start(self: Thread) -> None:
    # An InterruptibleThread has told its parent already, which is the thread that made it.
    if _patch.recording and not hasattr(self, ADOPTS_ITSELF):
        adopt(current(), self)
    _patch.original(self)


install = _patch.install
uninstall = _patch.uninstall
