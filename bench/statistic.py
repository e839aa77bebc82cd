"""Percentiles."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Microseconds."""
    return {"p50": percentile(seconds, 0.5) * 1e6, "p99": percentile(seconds, 0.99) * 1e6}


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)
