"""Which code is the program's own: what is cut, and what is not though it is the program's."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
from support import run_python, run_script

#: A queue calls the items' code when it has taken one off already, or not yet let go of it.
ITEMS = """
import asyncio, multiprocessing, queue, sys, threading, time
import interruptible_threading as it
it.install_patches()
steps, got = [], []
def until():
    if not armed or threading.get_ident() != thread.ident or "whole" in steps: return
    steps.append("begun")
    while not it.is_interrupted(): pass
    for _ in range(100000): pass
    steps.append("whole")
class Item:
    def __init__(self, number): self.number = number
    def __lt__(self, other):
        until()
        return self.number < other.number
    def __getstate__(self):
        until()
        return self.number
    def __setstate__(self, state):
        until()
        self.number = state
def priority():
    source = queue.PriorityQueue()
    for number in (2, 1, 3): source.put(Item(number))
    return source
class Own(queue.Queue):
    def _put(self, item):
        until()
        super()._put(item)
def tasks():
    async def main():
        source = asyncio.PriorityQueue()
        source.put_nowait(Item(1))
        source.put_nowait(Item(2))
        got.append(source.qsize())
    asyncio.run(main())
def pipe():
    receive, send = multiprocessing.Pipe(False)
    send.send(Item(1))
    return receive, send
def locked():
    source = multiprocessing.SimpleQueue()
    source.put(Item(1))
    return source
def buffered():
    source = multiprocessing.Queue()
    source.put(Item(1))
    return source
#: What has been made, what the thread does with it, and what it has, or is left, in the end.
CASES = {
    "get": (priority, lambda source: got.append(source.get()), lambda source: got[0].number),
    "put": (priority, lambda source: source.put(Item(0)), lambda source: source.qsize()),
    "own": (Own, lambda source: source.put(1), lambda source: source.qsize()),
    "tasks": (lambda: None, lambda source: tasks(), lambda source: got[0]),
    "locked": (locked, lambda source: got.append(source.get()), lambda source: got[0].number),
    "buffered": (buffered, lambda source: got.append(source.get()), lambda source: got[0].number),
    "receive": (pipe, lambda ends: got.append(ends[0].recv()), lambda ends: got[0].number),
}
make, use, left = CASES[sys.argv[1]]
armed = False
source = make()
def body():
    try:
        use(source)
        time.sleep(10**6)
    except it.ThreadInterrupted: steps.append("caught")
thread = threading.Thread(target=body, daemon=True)
armed = True  # not before: what feeds a queue's pipe may still be at it
thread.start()
while not steps: time.sleep(0.0005)
handle = it.interrupt(thread)
thread.join()
print(left(source), *steps)
"""

EXPECTED = {"get": 1, "put": 4, "own": 1, "tasks": 2, "locked": 1, "buffered": 1, "receive": 1}


@pytest.mark.parametrize("case", EXPECTED)
def test_items_are_not_lost_in_their_own_code(case: str) -> None:
    """In a comparison or in unpickling, a queue's item was gone with the interrupt."""
    assert run_script(ITEMS, case) == f"{EXPECTED[case]} begun whole caught\n"


#: A thread whose function has that file's name, called by threading itself.
FILES = """
import os, sys, threading, time
import interruptible_threading as it
it.install_patches()
source = '''
def until():
    try:
        steps.append("begun")
        while not done: pass
    except it.ThreadInterrupted: steps.append("cut")
    steps.append("over")
'''
steps, done = [], []
exec(compile(source, sys.argv[1], "exec"))
thread = threading.Thread(target=until, daemon=True)
thread.start()
while not steps: time.sleep(0.0005)
handle = it.interrupt(thread)
if sys.argv[2] == "library": handle.wait(0.05)  # long enough for many looks
else: handle.wait(60)
done.append(1)
thread.join()
print(*steps)
"""


@pytest.mark.parametrize("file", ["<frozen __main__>", "<frozen program>", "<frozen osprey>", "os.py", "<string>"])
def test_cut(file: str) -> None:
    """A program that was frozen has such names, too."""
    assert run_script(FILES, file, "program") == "begun cut over\n"


LIBRARY = ["<frozen os>", "<frozen zipimport>", "<frozen importlib.util>", f"{sysconfig.get_path('stdlib')}/os.py"]


@pytest.mark.parametrize("file", LIBRARY)
def test_not_cut(file: str) -> None:
    """Code of the standard library is cut when the program's own called it, which is not so here."""
    assert run_script(FILES, file, "library") == "begun over\n"


PROGRAM = """
import os, queue, sys, threading, time
import interruptible_threading as it
from interruptible_threading import _protected
it.install_patches()
assert os.path.dirname(threading.__file__) == os.path.dirname(__file__), threading.__file__
steps = []
def body():
    try:
        steps.append("begun")
        while True: pass
    except it.ThreadInterrupted: steps.append("cut")
thread = threading.Thread(target=body, daemon=True)
thread.start()
while not steps: time.sleep(0.0005)
it.interrupt(thread)
thread.join(60)
print(*steps, _protected._is_genuine("queue", queue.__spec__.origin), flush=True)
os._exit(0)
"""


def test_program_in_one_folder_with_the_standard_library(tmp_path: Path) -> None:
    """As some tools freeze programs. All of it was taken for the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for entry in library.iterdir():
        if entry.name not in ("__pycache__", "lib-dynload", "site-packages", "dist-packages", "test"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "program.py").write_text(PROGRAM)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_python("-X", "frozen_modules=off", str(tmp_path / "program.py"), env={"PYTHONPATH": path})
    assert (done.stdout, done.stderr) == ("begun cut True\n", "")
