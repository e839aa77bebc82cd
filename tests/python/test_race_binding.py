"""Threads that wait, while calls are bound and unbound, libraries come and go, and interrupts come."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from binding_support import MAKERS, Gate, begin, shim
from hostile_support import native
from interruptible_threading import _preload, install_patches, status, uninstall_patches
from stress_support import GUARD, SEED, Books, count, rng, spin
from support import run_python


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        stack.callback(shim.itr_bind)
        yield stack


def test_storm(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """They wait, are given what they wait for, and are interrupted, while calls are bound and unbound and libraries come and go.
    Each interrupt is delivered once, unless it was taken back; and nothing is lost that a call has returned."""
    if status()["preloaded"]:  # nothing is bound there: once more in an interpreter of its own
        env = {_preload.VARIABLE: "", "ITR_TEST_MODE": "import", "ITR_TEST_SEED": str(SEED)}
        done = run_python("-m", "pytest", "-p", "no:cacheprovider", __file__, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    random = rng("binding")
    rounds = count(60)
    binds = native("binds", tmp_path)
    others = [shutil.copy(binds, tmp_path / f"libother{number}.so") for number in range(2)]
    ctypes.CDLL(status()["library"], mode=ctypes.RTLD_GLOBAL)  # where a constructor finds itr_bind
    often = ctypes.CDLL(binds)
    gate = Gate()
    kinds = [make.values[0](stack, tmp_path) for make in MAKERS]
    victims = [begin(made, gate) for made in kinds]
    books = Books(*victims)
    over = False

    def loads() -> None:
        while not over:
            often.load_often(os.fsencode(others[0]), 1)
            time.sleep(0.001)

    loader = threading.Thread(target=loads, daemon=True)
    loader.start()
    try:
        for turn in range(rounds):
            handles = []
            for _ in range(random.randrange(1, 9)):
                at = random.randrange(len(victims))
                step = random.randrange(8)
                if step < 3:
                    handles.append((books.interrupt(victims[at]), victims[at]))
                elif step == 3 and kinds[at].give is not None:
                    kinds[at].given += 1
                    kinds[at].give(victims[at])
                elif step == 4:
                    shim.itr_bind()
                elif step == 5:
                    often.load_often(os.fsencode(others[1]), 1)
                elif step == 6 and handles and random.random() < 0.5:
                    handles.pop(random.randrange(len(handles)))[0].cancel()
                else:
                    shim.itr_unbind()
                spin(random.randrange(200))
            if random.random() < 0.1:
                gate.close(victims)
                uninstall_patches()
                try:
                    at = random.randrange(len(victims))
                    handles.append((books.interrupt(victims[at]), victims[at]))
                    spin(random.randrange(200))
                finally:
                    install_patches()
                    gate.closed = False
            shim.itr_bind()
            for handle, victim in handles:
                try:
                    books.wait(handle, victim)
                except BaseException:
                    print(f"in round {turn} of {rounds}")
                    raise
                victim.check()
    finally:
        over = True
        gate.closed = False
        loader.join(GUARD)
    books.handles = [handle for handle in books.handles if handle.state != "retracted"]
    books.stop()
    books.balance()
    for made in kinds:
        if made.left is not None:
            assert made.given == made.got + made.left()
