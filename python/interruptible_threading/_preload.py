"""The environment that makes a program start with the shim preloaded and the patches installed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping

PACKAGE = os.path.dirname(os.path.abspath(__file__))
DARWIN = sys.platform == "darwin"
LIBRARY = os.path.join(PACKAGE, "libinterruptible" + (".dylib" if DARWIN else ".so"))
VARIABLE = "DYLD_INSERT_LIBRARIES" if DARWIN else "LD_PRELOAD"
#: A directory with nothing but a sitecustomize.py, which every Python started with it on PYTHONPATH runs.
SITE = os.path.join(PACKAGE, "_site")
#: "0": the program's own children start without all this.
CHILDREN = "INTERRUPTIBLE_CHILDREN"

# glibc takes spaces for separators too.
_SEPARATORS = ":" if DARWIN else ": "
# A sanitizer's runtime refuses to work unless it is the first of all.
_SANITIZER = re.compile(r"lib(clang_rt\.)?[a-z]*san\b|libclang_rt\.[a-z]*san")


def _entries(value: str) -> list[str]:
    return [entry for entry in re.split(f"[{_SEPARATORS}]", value) if entry]


def _is_library(entry: str) -> bool:
    """A link to the library, or from it, is the library too: preloading both would be two copies."""
    return entry == LIBRARY or os.path.realpath(entry) == os.path.realpath(LIBRARY)


def expressible() -> bool:
    """Whether the library's path can stand in the preload variable: there is no way to quote a separator."""
    return not any(separator in LIBRARY for separator in _SEPARATORS)


def add(environ: MutableMapping[str, str], *, children: bool) -> None:
    """Preload the library and install the patches in programs started with ``environ``."""
    preloads = _entries(environ.get(VARIABLE, ""))
    if expressible() and not any(map(_is_library, preloads)):
        first = 0
        while first < len(preloads) and _SANITIZER.match(os.path.basename(preloads[first])):
            first += 1
        preloads.insert(first, LIBRARY)
        environ[VARIABLE] = ":".join(preloads)
    path = environ.get("PYTHONPATH", "")
    if SITE not in path.split(os.pathsep):
        environ["PYTHONPATH"] = SITE + os.pathsep + path if path else SITE
    if children:
        environ.pop(CHILDREN, None)
    else:
        environ[CHILDREN] = "0"


def _replace(environ: MutableMapping[str, str], name: str, entries: list[str], separator: str) -> None:
    if entries:
        environ[name] = separator.join(entries)
    else:
        environ.pop(name, None)


def remove(environ: MutableMapping[str, str]) -> None:
    """Undo add(), and leave what others have put into the same variables."""
    if any(map(_is_library, preloads := _entries(environ.get(VARIABLE, "")))):
        _replace(environ, VARIABLE, [entry for entry in preloads if not _is_library(entry)], ":")
    if SITE in (path := environ.get("PYTHONPATH", "").split(os.pathsep)):
        _replace(environ, "PYTHONPATH", [entry for entry in path if entry != SITE], os.pathsep)
    environ.pop(CHILDREN, None)
