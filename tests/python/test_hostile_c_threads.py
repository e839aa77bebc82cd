"""Threads that C has made, and that call Python now and then."""

from __future__ import annotations

from hostile_support import survives
from native_support import library


def test_c_thread_with_many_thread_states() -> None:
    """Python gives it a new thread state for each call, and frees it. What was remembered of the last one is not used."""
    survives(
        """
native = ctypes.CDLL(sys.argv[1])
parked_in, caught = [], []
@ctypes.CFUNCTYPE(None, ctypes.c_uint)
def callback(turn):
    spoiled = [bytearray(size) for size in range(100, 1000, 50) for _ in range(20)]  # what was freed is used for something else
    kind = KINDS[turn % 2 and 5]()
    try: kind.call()
    except ThreadInterrupted as error: caught.append((turn, error.interrupt_id))
handles = []
def sends():
    for turn in range(TURNS):
        until(lambda: len(caught) == turn, lambda: caught)
        def parked():
            for ident in _core.threads():
                info = _core.park_info(ident)
                if ident not in known and info and info["parked"] and info["exact"]: return parked_in.append(ident) or True
        until(parked, lambda: "it waits")
        handles.append(interrupt(parked_in[-1]))
TURNS = 12
sender = threading.Thread(target=sends, daemon=True)
known = {threading.get_ident()}
sender.start(); known.add(sender.ident)
assert native.call_from_a_thread(callback, TURNS) == 0
sender.join(GUARD)
assert caught == list(enumerate(handle.id for handle in handles)), (caught, handles)
assert len(set(parked_in)) == 1
""",
        library()._name,
        env={"PYTHONMALLOC": "debug"},
    )
