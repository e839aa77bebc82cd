"""Sets and dicts that hold a builtin whose hash has changed.

The hash of a builtin function depends on the C function behind it, and a set or dict stores the hash it was given. After the
C functions are swapped, ``os.open in os.supports_dir_fd`` would be False. Such a container has to be emptied and filled
again, in its old order. One that holds the builtin only as a value, such as a module's own dictionary, stays untouched.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict
from typing import Any


def _refill_set(container: set[Any]) -> None:
    # The methods of set itself: a subclass's may count, check or refuse.
    items = list(set.__iter__(container))
    set.clear(container)
    set.update(container, items)


def _refill_dict(container: dict[Any, Any]) -> None:
    # Also for an OrderedDict, whose own items() looks every key up and fails on a stale one.
    items = list(dict.items(container))
    if isinstance(container, OrderedDict):
        # It keeps the hashes a second time, with its order.
        OrderedDict.clear(container)
        for key, value in items:
            OrderedDict.__setitem__(container, key, value)
        return
    dict.clear(container)
    dict.update(container, items)


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
            if any(id(item) in stale for item in set.__iter__(container)):
                _refill_set(container)
        elif isinstance(container, dict) and any(id(key) in stale for key in dict.__iter__(container)):
            _refill_dict(container)
