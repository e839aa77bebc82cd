"""Waiting for children and signals: each parked for real and broken; a child is reaped once, and not by the broken call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable, ClassVar

import pytest
from interruptible_threading import interrupt
from support import LONG, POLL, READ, SLEEP, WAIT, Case, Cases, Scene, Worker, asleep, assert_interrupted, lacks, parked, wait_until

cases = Cases()
Steps = Iterator[Callable[[], Any]]
TIMEOUTS = (None, LONG)
FOREVER = ("sleep", str(int(LONG)))


def zombie_or_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


WAITS: dict[str, Callable[[int], Any]] = {
    "waitpid": lambda pid: os.waitpid(pid, 0)[0],
    "waitpid-any": lambda pid: os.waitpid(-1, 0)[0],
    "wait": lambda pid: os.wait()[0],
    "wait3": lambda pid: os.wait3(0)[0],
    "wait4": lambda pid: os.wait4(pid, 0)[0],
    "waitid": lambda pid: os.waitid(os.P_PID, pid, os.WEXITED).si_pid,  # type: ignore[union-attr]
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_for_a_child(name: str, quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        child = scene.child()
        yield partial(WAITS[name], child.pid)
        assert not zombie_or_gone(child.pid)
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
        other = Worker(partial(WAITS[name], child.pid))
        parked(other, *WAIT)
        child.send_signal(signal.SIGTERM)
        assert other.value() == child.pid
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, 0)

    Case(steps, WAIT, None).run()


@cases(*WAIT, timed=SLEEP + POLL)
def popen_wait(scene: Scene, timeout: float | None) -> Steps:
    child = scene.child()
    yield partial(child.wait, timeout)
    assert child.poll() is None
    child.terminate()
    assert child.wait() == -signal.SIGTERM


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("streams", [("stdout",), ("stdin", "stdout"), ("stdout", "stderr")], ids="+".join)
def test_popen_communicate(streams: tuple[str, ...], timeout: float | None, quiet: None) -> None:
    """Broken communicate(): the child lives, and what it writes is there for the next one."""

    def steps(scene: Scene, timeout: float | None) -> Steps:
        go = scene.fifo()
        child = scene.child("sh", "-c", 'read line <"$0"; echo out', go, **dict.fromkeys(streams, subprocess.PIPE))
        yield partial(child.communicate, timeout=timeout)
        assert child.poll() is None
        with open(go, "w") as fifo:
            fifo.write("now\n")
        assert child.communicate()[0] == b"out\n"
        assert child.returncode == 0

    Case(steps, (*POLL, *READ, *WAIT, "epoll_wait"), timeout).run()


class Recorded(subprocess.Popen):  # type: ignore[type-arg]
    made: ClassVar[list[Recorded]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Recorded.made.append(self)


RUNS: dict[str, Callable[[float | None], Any]] = {
    "run": lambda timeout: subprocess.run(FOREVER, timeout=timeout),
    "run-capture": lambda timeout: subprocess.run(FOREVER, timeout=timeout, capture_output=True),
    "call": lambda timeout: subprocess.call(FOREVER, timeout=timeout),
    "check_call": lambda timeout: subprocess.check_call(FOREVER, timeout=timeout),
    "check_output": lambda timeout: subprocess.check_output(FOREVER, timeout=timeout),
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("name", RUNS)
def test_subprocess_run(name: str, timeout: float | None, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """run() kills its child when it is interrupted, and has reaped it when the exception comes out."""
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    Recorded.made.clear()

    def call() -> Any:
        return RUNS[name](timeout)

    worker = Worker(call)
    wait_until(lambda: Recorded.made, "the child was made")
    parked(worker, *WAIT, *POLL, *SLEEP, *READ, "epoll_wait")
    assert_interrupted(worker, interrupt(worker))
    (child,) = Recorded.made
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)


def test_with_popen(quiet: None) -> None:
    """Leaving the `with` of a Popen waits for the child; the interrupt ends that wait too."""
    made: list[Any] = []

    def call() -> None:
        with subprocess.Popen(FOREVER) as process:
            made.append(process)

    worker = Worker(call)
    parked(worker, *WAIT)
    assert_interrupted(worker, interrupt(worker))
    assert made[0].poll() is None
    made[0].kill()
    assert made[0].wait() == -signal.SIGKILL


def test_popen_read(quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        child = scene.child("sh", "-c", "read line; echo $line; echo more", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        yield child.stdout.readline
        child.stdin.write("hello\n")
        child.stdin.close()
        assert child.stdout.read() == "hello\nmore\n"
        assert child.wait() == 0
        child.stdin = None

    Case(steps, READ, None).run()


# Signals. They are blocked in the worker (and in this test's main thread), so that they stay pending until somebody waits.
MASKED = {signal.SIGUSR1, signal.SIGUSR2}
SIGNAL_WAITS: dict[str, Callable[[], Any]] = {
    "sigwait": lambda: signal.sigwait(MASKED),
    "sigwaitinfo": lambda: signal.sigwaitinfo(MASKED).si_signo,
    "sigtimedwait": lambda: signal.sigtimedwait(MASKED, LONG).si_signo,  # type: ignore[union-attr]
    "sigtimedwait-int": lambda: signal.sigtimedwait(MASKED, int(LONG)).si_signo,  # type: ignore[union-attr]
}


@pytest.mark.parametrize("name", SIGNAL_WAITS)
def test_waiting_for_a_signal(name: str, quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        scene.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, MASKED))
        yield SIGNAL_WAITS[name]
        assert not signal.sigpending() & MASKED
        other = Worker(SIGNAL_WAITS[name])
        parked(other, "sigwait", "sigwaitinfo", "sigtimedwait")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert other.value() == signal.SIGUSR1
        assert not signal.sigpending() & MASKED

    Case(steps, ("sigwait", "sigwaitinfo", "sigtimedwait"), None).run()


def test_pause(quiet: None) -> None:
    seen: list[int] = []

    def steps(scene: Scene, timeout: None) -> Steps:
        scene.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number)))
        yield signal.pause
        assert seen == []
        other = Worker(signal.pause)
        asleep(other, "pause")  # a signal that comes before it sleeps is no reason to end
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGUSR1)
        assert other.value() is None
        wait_until(lambda: seen, "the signal handler runs in the main thread")

    Case(steps, ("pause",), None).run()


def test_signal_and_interrupt_together(quiet: None) -> None:
    """A program's signal that hits the parked worker neither breaks its call nor keeps the interrupt from doing so."""
    seen: list[int] = []
    with Scene() as scene:
        scene.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number)))
        r, _ = scene.pipe()
        worker = Worker(partial(os.read, r, 1))
        parked(worker, *READ)
        assert worker.ident is not None
        for count in range(1, 6):
            signal.pthread_kill(worker.ident, signal.SIGUSR1)
            wait_until(lambda count=count: len(seen) == count, "the handler runs")
        parked(worker, *READ)
        assert_interrupted(worker, interrupt(worker))


@cases(*READ, timeouts=(None,), marks=lacks(os, "openpty"))
def terminal(scene: Scene, timeout: None) -> Steps:
    master, slave = os.openpty()
    scene.callback(os.close, master)
    scene.callback(os.close, slave)
    yield partial(os.read, slave, 100)
    os.write(master, b"typed\n")
    assert os.read(slave, 100) == b"typed\n"


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "pidfd_open"), reason="no pidfd here")
def test_waitid_of_a_pidfd(quiet: None) -> None:
    def steps(scene: Scene, timeout: None) -> Steps:
        child = scene.child()
        fd = os.pidfd_open(child.pid)
        scene.callback(os.close, fd)
        yield partial(os.waitid, getattr(os, "P_PIDFD", 3), fd, os.WEXITED)
        child.kill()
        assert child.wait() == -signal.SIGKILL

    Case(steps, WAIT, None).run()


@pytest.mark.parametrize("case", cases.params)
def test_broken(case: Case, quiet: None) -> None:
    case.run()
