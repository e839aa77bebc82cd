"""Interpreters besides the main one in the process, and threads that end while they are interrupted."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hostile_support import survives
from support import absent

#: Another interpreter, whatever the module is called. What runs in it cannot print a failure: it tells by a pipe.
OTHERS = """
import gc
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
def create():
    if sys.argv[1] == "isolated": return interpreters.create()
    try: return interpreters.create("legacy")
    except TypeError: return interpreters.create(isolated=False)
def run(number, script):
    failed = interpreters.run_string(number, script)
    assert failed is None, failed
CALLS = '''
import os, queue, select, socket, threading, time
def each():
    time.sleep(0.001)
    lock = threading.Lock(); lock.acquire()
    assert lock.acquire(timeout=0.001) is False
    lock.release()
    with lock: pass
    r, w = os.pipe()
    assert select.select([r], [], [], 0.001) == ([], [], [])
    os.write(w, b"x"); assert os.read(r, 1) == b"x"
    os.close(r); os.close(w)
    a, b = socket.socketpair()
    with a, b:
        a.send(b"y"); assert b.recv(1) == b"y"
        b.settimeout(0.001)
        try: b.recv(1)
        except socket.timeout: pass
        else: raise AssertionError("a false result")
for _ in range(3): each()
threads = [threading.Thread(target=each) for _ in range(4)]
try:
    for thread in threads: thread.start()
except RuntimeError: pass  # up to 3.11, an isolated one may have none
else:
    for thread in threads: thread.join()
'''
"""

each_kind = pytest.mark.parametrize("kind", ["isolated", "legacy"])


@pytest.fixture(autouse=True)
def module() -> None:
    """Every build of CPython should have one of them."""
    if not any(map(find_spec, ["_interpreters", "_xxsubinterpreters"])):
        absent("no module that makes interpreters")


@each_kind
def test_other_interpreters_beside_interrupted_threads(kind: str) -> None:
    """Their calls and threads are not touched, and ours do not notice that they come and go."""
    survives(
        OTHERS
        + """
crowd = Crowd()
stop, rounds = [], []
def storm():
    while not stop:
        crowd.interrupt()
        rounds.append(1)
sender = threading.Thread(target=storm, daemon=True); sender.start()
for turn in range(5):
    number = create()
    run(number, CALLS)
    count = len(rounds)
    until(lambda: len(rounds) > count, lambda: "interrupts go on")
    interpreters.destroy(number)
stop.append(True)
sender.join(GUARD)
assert not sender.is_alive()
crowd.finish()
found = status()
assert found["patches"] and found["installed"], found
works()
""",
        kind,
    )


@each_kind
def test_thread_that_runs_another_interpreter(kind: str) -> None:
    """A wait in there is not broken, as nobody could raise in it; the interrupt comes when the thread is back in the main one."""
    survives(
        OTHERS
        + """
for turn in range(3):
    number = create()
    r, w = os.pipe()
    said_r, said_w = os.pipe()
    got = []
    def body():
        try:
            try: run(number, f"import os; os.write({said_w}, b'1'); data = os.read({r}, 9); os.write({said_w}, data)")
            finally: got.append(True)
            while True: time.sleep(LONG)
        except ThreadInterrupted as error: got.append(error.interrupt_id)
    thread = threading.Thread(target=body, daemon=True); thread.start()
    assert os.read(said_r, 9) == b"1"
    handle = interrupt(thread)
    works([sleep, recv, lock])
    assert handle.state == "pending" and not got, (handle.explain(), got)
    os.write(w, b"data")
    assert os.read(said_r, 9) == b"data"
    thread.join(GUARD)
    assert got == [True, handle.id], (got, handle.explain())
    interpreters.destroy(number)
works()
""",
        kind,
    )


@each_kind
def test_import_in_another_interpreter(kind: str) -> None:
    """It is refused there or does nothing; what the main interpreter has installed stays as it is."""
    survives(
        OTHERS
        + """
before = {key: value for key, value in status().items() if key not in ("monitor", "bound", "signal_ours")}
crowd = Crowd()
for turn in range(3):
    number = create()
    interpreters.run_string(number, "import sys; sys.path[:] = " + repr(sys.path) + '''
try:
    import interruptible_threading
    interruptible_threading.install_patches()
except ImportError: pass
''')
    crowd.interrupt()
    run(number, CALLS)
    interpreters.destroy(number)
    gc.collect()
    crowd.interrupt()
crowd.finish()
after = {key: value for key, value in status().items() if key in before}
assert before == after, (before, after)
works()
""",
        kind,
    )


def test_threads_end_while_they_are_interrupted() -> None:
    """By thread object and by ident, before, while and after they end; an ident may be another's by then. Each handle has an end."""
    survives(
        """
import gc, random
caught, handles = [], []
def short(kind):
    try: time.sleep(0) if kind else None
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
def guarded(kind):
    try: short(kind)
    except ThreadInterrupted as error: caught.append(error.interrupt_id)
threading.excepthook = lambda args: caught.append(args.exc_value.interrupt_id)  # in the function's first or last line
idents = [0] * 8
stop = []
def storm():
    while not stop:
        for ident in list(idents):
            try: handles.append(interrupt(ident))
            except ValueError: pass  # nobody has this ident
        time.sleep(0.0005)
senders = [threading.Thread(target=storm, daemon=True) for _ in range(2)]
for sender in senders: sender.start()
crowd = Crowd([sleep, lock, recv_timeout])
for turn in range(60):
    threads = [threading.Thread(target=guarded, args=(number % 2,), daemon=True) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        idents[number] = thread.ident
    for thread in threads: handles.append(interrupt(thread))
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
    if turn % 30 == 0: stop.append(True); [s.join(GUARD) for s in senders]; crowd.interrupt(); del stop[:]; \
        senders = [threading.Thread(target=storm, daemon=True) for _ in range(2)]; [s.start() for s in senders]
stop.append(True)
for sender in senders: sender.join(GUARD)
until(lambda: all(handle.state in ("delivered", "discarded") for handle in handles), lambda: [handle.explain() for handle in handles if handle.state == 'pending'][:3])
# Equal ones share a record: as many have been raised as were delivered, each once.
delivered = {handle.id for handle in handles if handle.state == "delivered"}
assert sorted(caught) == sorted(delivered), (len(caught), len(delivered))
crowd.interrupt()
crowd.finish()
works()
"""
    )
