"""How foreign C libraries take it when one of their waits is broken."""

from __future__ import annotations

from . import _core

#: Name to ITR_LIBRARY_* of interruptible.h.
POLICIES: dict[str, int] = {"once": 0, "fail": 1, "sleeps": 2, "shut": 3, "polls": 4}


def register_library(name: str, policy: str) -> None:
    """Say what the waits of a C library are told while an interrupt is pending for the thread they are in.

    ``name`` is how the library's file name begins: ``"libpq"`` is ``libpq.so.5`` and ``libpq-e9b5c9ac.so.5.18``; for a
    library that is linked into an extension module, that module's. ``policy``:

    - ``"once"``: ``EINTR``, once per interrupt. The default, and safe for everybody; a library that retries waits on,
      and the interrupt is raised when its call returns.
    - ``"fail"``: ``ECANCELED``, as long as the interrupt is pending. For libraries that retry on ``EINTR`` and report
      other errors cleanly. Some abort the process instead: try it.
    - ``"sleeps"``: sleeps end early, as long as it is pending; other waits as with ``"once"``.
    - ``"polls"``: polls with a time-out end as if it had passed, once per interrupt; other waits as with ``"once"``. For
      libraries that retry on ``EINTR``, and ask Python between two slices of their wait whether to go on.
    - ``"shut"``: as ``"fail"``, and the sockets that it polls are shut down: for libraries that would take the answer that
      comes late for that to their next question.

    The latest registration counts, and before what is built in. Raises TypeError and ValueError for a bad name or policy,
    RuntimeError when there are 64 of them already.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str such as 'libpq', not {type(name).__name__}")
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(map(repr, POLICIES))}, not {policy!r}")
    if not name or "/" in name or "\0" in name or len(name.encode()) > 63:
        raise ValueError(f"name must be the beginning of a file name, without folders, at most 63 bytes: {name!r}")
    if _core.register_library(name, POLICIES[policy]) != 0:
        raise RuntimeError(f"64 libraries are registered already: no room for {name!r}")
