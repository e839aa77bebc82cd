#!/usr/bin/env python3
"""Hold interrupts back where two steps belong together.

python examples/masks.py
"""

from __future__ import annotations

import queue
import sys
import threading

from interruptible_threading import ThreadInterrupted, critical_section, deliver_on_blocking, install_patches, interrupt


class Accounts:
    """Money moves from one to the other for ever; at no moment that anybody sees is some of it missing."""

    def __init__(self) -> None:
        self.left, self.right = 1000, 0

    def transfer(self, begun: threading.Event) -> None:
        try:
            begun.set()
            while True:
                with critical_section():
                    self.left -= 1
                    self.right += 1
                # What came meanwhile is raised here, where the section is left.
        except ThreadInterrupted:
            pass


def copy_items(source: queue.Queue[int], copied: list[int], begun: threading.Event) -> None:
    """Between the get and the append an item would be in nobody's hands: interrupts come in the get only."""
    try:
        with deliver_on_blocking():
            begun.set()
            while True:
                item = source.get()
                copied.append(item)
    except ThreadInterrupted:
        pass


def main() -> int:
    install_patches()  # not needed when started by `interruptible run`
    for _ in range(100):
        accounts = Accounts()
        thread = threading.Thread(target=accounts.transfer, args=(begun := threading.Event(),))
        thread.start()
        begun.wait()
        interrupt(thread)
        thread.join()
        assert accounts.left + accounts.right == 1000
    print("critical_section: 100 threads interrupted, no money lost")

    lost = 0
    for _ in range(100):
        source: queue.Queue[int] = queue.Queue()
        copied: list[int] = []
        thread = threading.Thread(target=copy_items, args=(source, copied, begun := threading.Event()))
        thread.start()
        begun.wait()
        for number in range(100):
            source.put(number)
        interrupt(thread)
        thread.join()
        lost += 100 - len(copied) - source.qsize()
    print(f"deliver_on_blocking: 100 threads interrupted, {lost} items lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
