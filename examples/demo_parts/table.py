"""Plain tables, with colours where there is a terminal to show them."""

from __future__ import annotations

import os
import sys

_COLOURS = {"good": "32", "bad": "31;1", "dim": "2", "bold": "1"}


def coloured(text: str, colour: str) -> str:
    """``text`` in a colour, or as it is when the output is a file or the user has asked for none (NO_COLOR)."""
    wanted = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    return f"\033[{_COLOURS[colour]}m{text}\033[0m" if wanted else text


def heading(text: str) -> None:
    print(f"\n{coloured(text, 'bold')}\n")


def row(*cells: tuple[str, int], colours: tuple[str, ...] = ()) -> None:
    """One line; each cell has a width, negative for right-aligned. Padding comes before colour, which has no width."""
    out = []
    for at, (text, width) in enumerate(cells):
        padded = text.rjust(-width) if width < 0 else text.ljust(width)
        colour = colours[at] if at < len(colours) else ""
        out.append(coloured(padded, colour) if colour else padded)
    print("  ".join(out).rstrip(), flush=True)


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
