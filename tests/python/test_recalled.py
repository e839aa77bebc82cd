"""An exception that was armed and taken back leaves nothing behind (up to 3.11; later none is armed)."""

from __future__ import annotations

import sys

import pytest
from support import run_script

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="nothing is armed")


#: cancel() takes back what was armed, because the thread may not be traced. What the program traces goes on.
TRACED = """
import random, sys, threading, time
def refuse(event, args):
    if event == "sys.settrace" and not allowed: raise RuntimeError
allowed, stop, begun, caught, random = [], [], [], [], random.Random(1)
sys.addaudithook(refuse)
import interruptible_threading as it
it.install_patches()
def run():
    while not stop:
        try:
            while not stop: begun.append(1)
        except it.ThreadInterrupted:
            caught.append(1)
def traced():
    return 1
thread = threading.Thread(target=run)
thread.start()
cancelled = raised = 0
while cancelled < 20:
    while len(caught) < raised: time.sleep(0.001)  # else the next one may come where none is caught
    begun.clear()
    while not begun: time.sleep(0.001)
    handle = it.interrupt(thread)
    time.sleep(random.random() * 0.012)
    if handle.cancel():
        cancelled += 1
        allowed.append(1)
        sys.settrace(lambda *args: None)
        traced()
        sys.settrace(None)
        allowed.clear()
    else:
        raised += 1
stop.append(1)
try:
    thread.join()
finally:
    print("done")
"""


def test_traced() -> None:
    assert run_script(TRACED).split() == ["done"]
