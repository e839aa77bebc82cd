"""Beside libraries that make calls before everything is ready: from their constructors, or as they allocate."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_support import beside, native, survives


@pytest.fixture(scope="module")
def ctor(tmp_path_factory: pytest.TempPathFactory) -> str:
    return native("ctor", tmp_path_factory.mktemp("native"))


#: Its thread waits all along, undisturbed by what others are sent; its handler gets what is the program's own.
USED = """
assert other.wrong() == 0, f"ctor.c, line {other.wrong()}"
works()
def own_signals_arrive():
    if not status()["signal_ours"] or status()["signal"] != signal.SIGURG: return  # it took the number away
    before = other.seen()
    os.kill(os.getpid(), signal.SIGURG)
    until(lambda: other.seen() == before + 1, lambda: "its handler is called")
crowd = Crowd()
for _ in range(3):
    own_signals_arrive()
    crowd.interrupt()
crowd.finish()
assert other.let_go() == ord("x")
works()
assert other.wrong() == 0
"""


@pytest.mark.parametrize("order", ["before", "behind"])
def test_preloaded(order: str, ctor: str) -> None:
    """Those before ours in the variable are initialised after it, those behind before."""
    survives(
        """
other = ctypes.CDLL(sys.argv[1])
assert other.seen() == 0
"""
        + USED
        + "assert status()['signal'] == signal.SIGURG and other.seen() == 3, other.seen()",
        ctor,
        env=beside(ctor, order),
    )


@pytest.mark.parametrize("thread", ["main", "worker"])
def test_loaded_later(thread: str, ctor: str) -> None:
    """Where ours is bound late, nobody has bound this one yet: its handler takes the place of ours."""
    survives(
        f"""
works()
def load():
    global other
    with deliver_on_blocking(): other = ctypes.CDLL(sys.argv[1])
if {thread == "main"}: load()
else: loader = threading.Thread(target=load); loader.start(); loader.join()
"""
        + USED
        + "if status()['preloaded']: assert status()['signal'] == signal.SIGURG and other.seen() == 3, other.seen()",
        ctor,
    )


@pytest.mark.parametrize("order", ["before", "behind"])
def test_an_allocator_that_reads_its_settings(order: str, tmp_path: Path) -> None:
    allocator = native("allocator", tmp_path)
    survives(
        """
wrong = ctypes.CDLL(sys.argv[1]).wrong()
assert wrong == 0, f"allocator.c, line {wrong}"
works()
assert subprocess.run(["sh", "-c", "cat; exit 3"], input=b"in", capture_output=True).stdout == b"in"
works()
""",
        allocator,
        env=beside(allocator, order),
    )
