"""Foreign libraries: what they are told, and extension modules that ask PyErr_CheckSignals() whether to go on."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import sysconfig
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from interruptible_threading import ThreadInterrupted, _core, critical_section, interrupt, register_library
from support import LONG, POLL, Scene, Worker, absent, assert_interrupted, c_compiler, parked, wait_until

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["", "lib/pq", "x" * 64, "a\0b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="beginning of a file name"):
        register_library(name, "once")


def test_bad_types_and_policies() -> None:
    with pytest.raises(TypeError, match="not int"):
        register_library(7, "once")  # type: ignore[arg-type]
    for policy in ("never", 1, None):
        with pytest.raises(ValueError, match="'once', 'fail', 'sleeps', 'shut', 'polls'"):
            register_library("libsomething", policy)  # type: ignore[arg-type]


def test_known_libraries() -> None:
    known = {name: policy for name, policy, _ in _core.known_libraries()}
    assert known["libpq"] == 3
    assert known["libsqlite3"] == 2
    assert known["libzmq"] == 0
    assert known["psycopg_binary/_psycopg"] == 4


@pytest.fixture(scope="module")
def waiter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """tests/python/native/waiter.c, compiled for this interpreter and loaded now, after the patches."""
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").exists():
        absent(f"no Python.h in {include}")
    target = tmp_path_factory.mktemp("native") / ("waiter" + sysconfig.get_config_var("EXT_SUFFIX"))
    source = HERE / "native" / "waiter.c"
    subprocess.run([*c_compiler(), "-shared", "-fPIC", "-O1", f"-I{include}", str(source), "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location("waiter", target)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_extension_that_waits(waiter: Any, quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()
        worker = Worker(partial(waiter.wait, r))
        info = parked(worker, *POLL)
        assert not info["exact"]
        assert info["library"].startswith("waiter.")
        handle = interrupt(worker, reason="why")
        assert_interrupted(worker, handle, "why")
        os.write(w, b"x")
        assert waiter.wait(r) == 1


def test_extension_that_computes(waiter: Any, quiet: None) -> None:
    worker = Worker(waiter.compute)
    wait_until(waiter.begun, "it computes")
    assert_interrupted(worker, interrupt(worker))


def test_mask_holds_in_extensions(waiter: Any, quiet: None) -> None:
    with Scene() as scene:
        r, w = scene.pipe()
        steps = []

        def call() -> None:
            with critical_section():
                steps.append(waiter.wait(r))

        worker = Worker(call)
        parked(worker, *POLL)
        handle = interrupt(worker)
        assert handle.state == "masked"
        os.write(w, b"x")
        error = worker.finish(handle).error
        assert type(error) is ThreadInterrupted
        assert steps == [1]


@pytest.mark.parametrize("method", ["connection", "cursor"])
def test_sqlite_waits_for_a_lock(method: str, quiet: None, tmp_path: Path) -> None:
    """The interrupt, not OperationalError("database is locked"); and the connection goes on working."""
    path = tmp_path / "database"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("create table t (x)")
    let_go = threading.Event()
    after = []

    def call() -> None:
        mine = sqlite3.connect(path, timeout=LONG, isolation_level=None)
        try:
            if method == "cursor":
                other.execute("begin exclusive")
                mine.cursor().execute("insert into t values (1)")
            else:
                other.execute("begin exclusive")
                mine.execute("insert into t values (1)")
        finally:
            let_go.wait(LONG)
            after.append(mine.execute("insert into t values (2)").rowcount)
            mine.close()

    worker = Worker(call)
    info = parked(worker, "usleep", "nanosleep", "clock_nanosleep")
    assert "sqlite3" in info["library"]
    handle = interrupt(worker)
    assert handle.wait(LONG)
    other.execute("rollback")
    let_go.set()
    assert_interrupted(worker, handle)
    assert after == [1]
    assert other.execute("select x from t").fetchall() == [(2,)]
    other.close()
