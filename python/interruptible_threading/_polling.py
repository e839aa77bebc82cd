"""The poll interval: kept for programs that set it. Nothing polls while a wake-up can be had."""

from __future__ import annotations

import math

_poll_interval = 0.05


def set_poll_interval(seconds: float) -> None:
    """How often, in seconds, a fallback that cannot be woken would look. No such fallback is in use today."""
    global _poll_interval
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"the poll interval is a number of seconds, not {seconds!r}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"the poll interval must be a finite number of seconds above 0, not {seconds!r}")
    _poll_interval = float(seconds)
