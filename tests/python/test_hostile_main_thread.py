"""The main thread beside a storm of interrupts of all others: it sees none, and its signal handlers run as ever (I6)."""

from __future__ import annotations

import os

import pytest
from hostile_support import survives

STORM = """
main = threading.main_thread()
# Not sigwait: there each thread takes a look at the process's signals, on its way to block its own.
crowd, over = Crowd([kind for kind in KINDS if kind is not sigwait]), threading.Event()
def storms():
    handles = []
    while not over.is_set():
        handles = [interrupt(waiter) for waiter in crowd.waiters]
        time.sleep(0.0002)
    assert all(handle.wait(GUARD) for handle in handles)
stormers = [threading.Thread(target=storms, daemon=True) for _ in range(2)]
def interrupted(): return [len(waiter.got) for waiter in crowd.waiters]
def begin():
    for stormer in stormers: stormer.start()
def finish():
    over.set()
    for stormer in stormers: stormer.join()
    crowd.settle(); crowd.finish()
def helped(kind, help):
    "Makes the call in this thread, with a thread that helps it out."
    helper = threading.Thread(target=help, args=(kind,), daemon=True)
    helper.start()
    try: return kind.call()
    finally: helper.join(GUARD)
# Not sigwait, which runs no handlers.
MAINS = [kind for kind in KINDS if kind not in (sleep, sigwait)]
"""

TIMER = (
    STORM
    + """
ticks = []
def tick(*_): ticks.append(threading.get_ident())
signal.signal(signal.SIGALRM, tick)
def after_ticks(kind):
    count = len(ticks)
    until(lambda: len(ticks) >= count + 5, lambda: f"the handler runs in {kind}")
    kind.give(main)
begin()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
before = interrupted()
for _ in range(3):
    for kind in [kind() for kind in MAINS]:
        assert helped(kind, after_ticks) == kind.want, kind
    count, start = len(ticks), time.monotonic()
    time.sleep(0.03)
    assert time.monotonic() - start >= 0.03, "a sleep that is over too soon"
    assert len(ticks) > count
signal.setitimer(signal.ITIMER_REAL, 0)
assert set(ticks) == {main.ident}
until(lambda: all(now > then for now, then in zip(interrupted(), before)), lambda: "all were interrupted meanwhile")
finish()
"""
)

HANDLERS = (
    STORM
    + """
class Woken(Exception): pass
calls, raising = [], [False]
def handler(number, frame):
    calls.append(number)
    if raising[0]: raise Woken
for number in (signal.SIGUSR1, signal.SIGURG): signal.signal(number, handler)
told = os.open(f"/proc/self/task/{main.native_id}/status", os.O_RDONLY)
def kernel():
    "Whether it sleeps, and how often it has done so."
    text = os.pread(told, 9999, 0)
    return b"\\nState:\\tS" in text, text.partition(b"\\nvoluntary_ctxt_switches:")[2].split()[0]
def waits():
    "In the call, asleep: what comes between the handler's return and that is forgotten by CPython, until something else comes."
    # Who gives up the GIL may sleep, too, but only until somebody has taken it, as this thread does between the two looks.
    if sys._current_frames()[main.ident].f_code is handler.__code__: return False
    before = kernel()
    return before[0] and before == kernel()
def many(kind):
    "Each signal runs the handler once: counted one by one, for those that are pending together become one."
    for i in range(100):
        until(lambda: len(calls) == i and waits(), lambda: "it waits")
        signal.pthread_kill(main.ident, signal.SIGUSR1) if i % 2 else os.kill(os.getpid(), signal.SIGURG)
        until(lambda: len(calls) > i, lambda: f"{len(calls)} calls of the handler after {i + 1} signals")
    kind.give(main)
begin()
for kind in [kind() for kind in MAINS]:
    del calls[:]
    assert helped(kind, many) == kind.want, kind
    assert len(calls) == 100
raising[0] = True
for kind in [kind() for kind in (sleep, *MAINS)] * 2:
    inside = threading.Event()
    def wakes():
        inside.wait()
        until(waits, lambda: "it waits")
        signal.pthread_kill(main.ident, signal.SIGUSR1)
    helper = threading.Thread(target=wakes, daemon=True)
    helper.start()
    try:
        inside.set()
        kind.call()
    except Woken as error: assert error.__context__ is None
    else: sys.exit(f"{kind} is not ended by the handler's exception")
    helper.join(GUARD)
raising[0] = False
def presses():
    inside.wait()
    until(waits, lambda: "it waits")
    os.kill(os.getpid(), signal.SIGINT)
inside = threading.Event()
helper = threading.Thread(target=presses, daemon=True)
helper.start()
try:
    inside.set()
    time.sleep(LONG)
except KeyboardInterrupt: pass
helper.join(GUARD)
finish()
"""
)


@pytest.mark.parametrize("attached", [False, True], ids=["plain", "attached"])
@pytest.mark.parametrize("body", [TIMER, HANDLERS], ids=["timer", "handlers"])
def test_main_thread_beside_a_storm(body: str, attached: bool) -> None:
    """Also when it goes through the parks like any other thread."""
    survives(body, env={**os.environ, "INTERRUPTIBLE_ATTACH_MAIN": "1"} if attached else None)
