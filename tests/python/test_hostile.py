"""In quiet surroundings: what test_hostile_*.py do in others."""

from __future__ import annotations

from hostile_support import survives


def test_quiet() -> None:
    survives("works()")
