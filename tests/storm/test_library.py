"""An interrupt in any corner of the standard library comes out of it, once, and as itself.

ITR_TEST_COUNT says how many each piece of work gets.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter

import pytest
from interruptible_threading import ThreadInterrupted, interrupt
from more_library import PIECES
from stress_support import count, rng
from support import GUARD, wait_until

pytestmark = pytest.mark.filterwarnings("ignore")  # of what was cut off in the middle


class Worker(threading.Thread):
    """Does one piece of work again and again. What comes out of it is counted."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.piece = PIECES[name]
        self.begun = 0
        self.over = False
        self.caught: Counter[object] = Counter()
        self.other = ""

    def run(self) -> None:
        while not self.over:
            try:
                self.begun += 1
                while not self.over:
                    self.piece()
            except ThreadInterrupted as error:
                self.caught[error.interrupt_id] += 1
            except BaseException:
                self.other = traceback.format_exc()
                return


@pytest.mark.parametrize("name", PIECES)
def test_an_interrupt_comes_out_of(name: str, quiet: None) -> None:
    worker = Worker(name)
    worker.start()
    dice: random.Random = rng(name)
    sent: list[object] = []
    for _ in range(count(3)):
        wait_until(lambda: worker.begun > len(sent) or worker.other, "it is at work")
        time.sleep(dice.random() * 0.002)  # somewhere
        handle = interrupt(worker)
        sent.append(handle.id)
        assert handle.wait(GUARD), f"{handle.explain()} {worker.other}"
        wait_until(lambda: sent[-1] in worker.caught or worker.other, f"{handle.explain()}, and comes out")
        assert not worker.other, worker.other
    worker.over = True
    worker.join()
    assert (worker.other, worker.caught) == ("", Counter(sent))
