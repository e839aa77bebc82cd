"""Sets and dicts that hold a builtin whose hash has changed.

The hash of a builtin function depends on the C function behind it, and a set or dict stores the hash it was given. After the
C functions are swapped, ``os.open in os.supports_dir_fd`` would be False. Such a container has to be emptied and filled
again, in its old order. One that holds the builtin only as a value, such as a module's own dictionary, stays untouched.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Callable, TypeVar

from . import _core

_T = TypeVar("_T")


def _refill_set(container: set[Any]) -> None:
    # The methods of set itself: a subclass's may count, check or refuse. In one step: other threads look things up in it.
    elements = _elements(container)
    fresh = _made(set, elements)
    if fresh is not None and _all_there(fresh, elements):
        set.__init__(container, fresh)


def _refill_dict(container: dict[Any, Any]) -> None:
    # Also for an OrderedDict, whose own items() looks every key up and fails on a stale one.
    while True:
        items = _listed(partial(dict.items, container))
        fresh = _made(dict, items)
        if fresh is None or not _all_there(fresh, [key for key, _ in items]):
            return
        if isinstance(container, OrderedDict):
            # It keeps the hashes a second time, with its order.
            OrderedDict.clear(container)
            for key, value in fresh.items():
                OrderedDict.__setitem__(container, key, value)
            return
        if _core.refill(container, items, fresh):
            return  # else another thread has changed it meanwhile


def _made(kind: Callable[[list[Any]], _T], listed: list[Any]) -> _T | None:
    # A key that cannot be hashed any more stays where it is, and so does what is with it.
    with suppress(Exception):
        return kind(listed)
    return None


def _all_there(fresh: set[Any] | dict[Any, Any], keys: list[Any]) -> bool:
    """Whether none is lost because it has become equal to another. (A builtin may be there with its old hash and its new.)"""
    return len(fresh) == len({id(key) for key in keys})


def _listed(view: Callable[[], Iterable[_T]]) -> list[_T]:
    # By the methods of set and dict themselves, which look nothing up.
    while True:
        with suppress(RuntimeError):  # another thread has just changed it
            return list(view())


def _elements(container: set[Any] | dict[Any, Any]) -> list[Any]:
    own: Any = set if isinstance(container, set) else dict
    return _listed(partial(own.__iter__, container))


def rehash(builtins: list[object]) -> None:
    """Repair every set and dict that has one of ``builtins`` as element or key."""
    stale = {id(builtin) for builtin in builtins}
    # What the collector was told to forget (gc.freeze) is not found by it; the sets of os are where it matters.
    candidates = [value for name, value in vars(os).items() if name.startswith("supports_")]
    candidates += gc.get_referrers(*builtins) if builtins else []
    done: set[int] = set()
    for container in candidates:
        if id(container) in done:
            continue
        done.add(id(container))
        if isinstance(container, set):
            if any(id(item) in stale for item in _elements(container)):
                _refill_set(container)
        elif isinstance(container, dict) and any(id(key) in stale for key in _elements(container)):
            _refill_dict(container)
