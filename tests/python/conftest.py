"""The tests run in a process that has the library preloaded and the patches installed, however pytest was started."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

#: How the shim gets in: preload; import (bound late, by install_patches()); ctypes (loaded by hand before that, from
#: another place than the package's).
MODE = os.environ.get("ITR_TEST_MODE", "preload")
LIBRARY = os.environ.get("ITR_TEST_LIBRARY", "")
if MODE == "ctypes":
    ctypes.CDLL(LIBRARY)

import interruptible_threading  # noqa: E402
from interruptible_threading import _preload  # noqa: E402

#: Fixtures: servers outside this process, and in it; and notes of what becomes of each test.
pytest_plugins = ["servers", "web_server", "reporting"]

#: Seconds for one test, more than whatever it waits for itself (support.PATIENCE); those that ITR_TEST_COUNT makes long get more.
HANG_GUARD = 480.0 + 0.05 * int(os.environ.get("ITR_TEST_COUNT") or 0)
RESTARTED = "INTERRUPTIBLE_TESTS_RESTARTED"
#: The standard error of the run itself, which is not captured.
STDERR = pytest.StashKey[TextIO]()


def _restart_preloaded(config: pytest.Config) -> None:
    environ = dict(os.environ)
    _preload.add(environ, children=True)
    environ = {**os.environ, _preload.VARIABLE: environ[_preload.VARIABLE], RESTARTED: "1"}
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
    sys.stdout.flush()
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    os.execve(sys.executable, [sys.executable, *flags, "-m", "pytest", *config.invocation_params.args], environ)


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts its background jobs with these ignored; those that the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    config.addinivalue_line("markers", "hang_guard(seconds): dump all stacks and end the run when a test takes longer")
    if MODE == "preload" and not interruptible_threading.status()["preloaded"]:
        if os.environ.get(RESTARTED):
            raise pytest.UsageError(f"the library is not preloaded, though {_preload.VARIABLE}={os.environ.get(_preload.VARIABLE)}")
        _restart_preloaded(config)
    interruptible_threading.install_patches()
    status = interruptible_threading.status()
    if status["preloaded"] != (MODE == "preload") or (MODE == "ctypes" and status["library"] != LIBRARY):
        raise pytest.UsageError(f"this is no run in {MODE} mode: {status}")
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture()
    config.stash[STDERR] = os.fdopen(os.dup(2), "w")
    if capture is not None:
        capture.resume_global_capture()


def pytest_report_header() -> list[str]:
    return [f"interruptible_threading: {interruptible_threading.status()}"]


@pytest.fixture(autouse=True)
def _hang_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs with the GIL held ends the run with every thread's stack, instead of staying for ever."""
    marker = request.node.get_closest_marker("hang_guard")
    faulthandler.dump_traceback_later(marker.args[0] if marker else HANG_GUARD, exit=True, file=request.config.stash[STDERR])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing may be written to standard error."""
    yield
    assert capfd.readouterr().err == ""
