"""Workers that are parked in a known call, and what must hold when an interrupt breaks it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple, NoReturn, Optional

import pytest
from interruptible_threading import ThreadInterrupted, _core, critical_section, interrupt, is_interrupted

#: Seconds after which a test gives up. Never a bound on how fast something has to be.
GUARD = 60.0
#: The same for a program that is run to its end: its own guards come first. The hang guard of conftest.py has to come later.
PATIENCE = 5 * GUARD
#: The time-out that calls are given: no test lives to see it pass.
LONG = 3000.0

# What libc function a call is parked in. Versions of CPython differ.
SLEEP = ("clock_nanosleep", "nanosleep", "select")
SEM = ("sem_timedwait", "sem_clockwait")
POLL = ("poll", "__poll_chk", "ppoll", "__ppoll_chk")
EPOLL = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
READ = ("read", "__read_chk")
RECV = ("recv", "__recv_chk", "recvfrom", "__recvfrom_chk", "recvmsg")
SEND = ("send", "sendto", "sendmsg")
OPEN = ("open", "open64", "openat", "openat64", "__open_2", "__open64_2", "__openat_2", "__openat64_2")
WAIT = ("wait", "waitpid", "wait3", "wait4", "waitid")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition()``."""
    end = time.monotonic() + GUARD
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"in vain: {what}")
        time.sleep(0.0005)


def sleeps(thread: threading.Thread) -> bool:
    """Whether the kernel has put it to sleep, in a call or where it waits for the GIL."""
    with open(f"/proc/self/task/{thread.native_id}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def asleep(thread: threading.Thread, *calls: str) -> dict[str, Any]:
    """Wait until the thread sleeps in one of ``calls``. Parked is also who is about to, or whose call returns at once."""
    while True:
        where = parked(thread, *calls)
        if sleeps(thread) and parked(thread)["parks"] == where["parks"]:
            return where


def parked(thread: threading.Thread, *calls: str) -> dict[str, Any]:
    """Wait until the thread is parked in one of ``calls`` (any, when none is named), and say where."""
    last: dict[str, Any] | None = None

    def look() -> Any:
        nonlocal last
        last = _core.park_info(thread.ident) if thread.ident is not None else None
        if not thread.is_alive():
            pytest.fail(f"{thread.name} ended instead of being parked in {calls}: {getattr(thread, 'outcome', None)!r}")
        return last if last and last["parked"] and (not calls or last["call"] in calls) else None

    end = time.monotonic() + GUARD
    while not look():
        if time.monotonic() > end:
            pytest.fail(f"not parked in {calls} but at {last}")
        time.sleep(0.0005)
    assert last is not None
    return last


class Outcome(NamedTuple):
    """How a worker's call ended."""

    value: Any = None
    error: Optional[BaseException] = None


class Worker(threading.Thread):
    """Runs ``call()`` once in a thread of its own, started at once, and keeps what became of it.

    When it has started, an interrupt cannot come before the ``try`` any more.
    """

    def __init__(self, call: Callable[[], Any], *, start: bool = True) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._entered = threading.Event()
        self.outcome: Outcome | None = None
        if start:
            self.start()

    def start(self) -> None:
        super().start()
        # One that was interrupted before ends without.
        while not self._entered.wait(0.01) and self.is_alive():
            pass

    def run(self) -> None:
        try:
            self._entered.set()
            self.outcome = Outcome(value=self._call())
        except BaseException as error:
            self.outcome = Outcome(error=error)

    def finish(self, handle: Any = None) -> Outcome:
        """Wait for the end; a failure that says where the thread is stuck when there is none."""
        self.join(GUARD)
        if self.is_alive():
            where = handle.explain() if handle is not None else ""
            pytest.fail(f"stuck: {_core.park_info(self.ident or 0)} {where}")
        assert self.outcome is not None, "ended without an outcome: the interrupt hit the worker's own code"
        return self.outcome

    def value(self) -> Any:
        """What the call returned; what it raised is raised here."""
        outcome = self.finish()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


def in_thread(call: Callable[[], Any]) -> Any:
    """What ``call()`` gives in another thread."""
    return Worker(call).value()


def assert_interrupted(worker: Worker, handle: Any, reason: object = None) -> BaseException:
    """The worker's call raised exactly this interrupt, and nothing else is left of it."""
    outcome = worker.finish(handle)
    error = outcome.error
    assert error is not None, f"returned {outcome.value!r}; {handle.explain()}"
    assert type(error) is ThreadInterrupted, repr(error)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert error.args == ()
    assert error.reason == reason
    assert error.source == threading.get_ident()
    assert error.interrupt_id == handle.id
    assert handle.state == "delivered"
    assert handle.wait(0) is True
    assert handle.cancel() is False
    assert not is_interrupted(worker)
    return error


def broken(call: Callable[[], Any], *calls: str) -> Worker:
    """Park ``call()`` in a worker, interrupt it there, and check how it came out."""
    worker = Worker(call)
    where = parked(worker, *calls)
    assert where["exact"], where
    reason = object()
    assert_interrupted(worker, interrupt(worker, reason=reason), reason)
    return worker


class Gate:
    """Who comes through says so, and waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> None:
        with critical_section():
            self.reached.set()
            assert self.open.wait(GUARD)

    def wait(self) -> None:
        assert self.reached.wait(GUARD)


class Scene(ExitStack):
    """What a case needs: pipes, sockets, children, files; all of it gone afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._descriptors: set[int] = set()

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        for fd in ends:
            self._descriptors.add(fd)
            self.callback(self.close_descriptor, fd)
        return ends

    def close_descriptor(self, fd: int) -> None:
        """Close one end of a pipe, now and not again at the end: its number may be another's by then."""
        if fd in self._descriptors:
            self._descriptors.remove(fd)
            os.close(fd)

    def full_pipe(self) -> tuple[int, int]:
        """A pipe whose write end blocks, and nothing in it that matters."""
        r, w = self.pipe()
        os.set_blocking(w, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(w, b"x" * 65536)
        os.set_blocking(w, True)
        return r, w

    def socketpair(self, timeout: float | None = None, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        a, b = socket.socketpair(socket.AF_UNIX, kind)
        self.enter_context(a)
        self.enter_context(b)
        a.settimeout(timeout)
        return a, b

    def full_socket(self, timeout: float | None = None, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket, int]:
        """(socket whose send blocks, peer, number of bytes on their way)."""
        a, b = self.socketpair(None, kind)
        a.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += a.send(b"x" * 1024)
        a.settimeout(timeout)
        return a, b, sent

    def listener(self, backlog: int = 16) -> socket.socket:
        server = self.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        return server

    def folder(self) -> str:
        path = tempfile.mkdtemp()
        self.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def fifo(self) -> str:
        path = os.path.join(self.folder(), "fifo")
        os.mkfifo(path)
        return path

    def file(self, content: bytes = b"") -> str:
        path = os.path.join(self.folder(), "file")
        with open(path, "wb") as file:
            file.write(content)
        return path

    def child(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """A child that lives until its end is wanted."""
        process = subprocess.Popen(argv or ("sleep", str(int(LONG))), **options)
        self.callback(end_child, process)
        return process

    def running_thread(self) -> tuple[threading.Thread, threading.Event]:
        """A thread that runs until the event is set."""
        done = threading.Event()
        thread = threading.Thread(target=done.wait, daemon=True)
        thread.start()
        self.callback(done.set)
        return thread, done


def end_child(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap a child and close its pipes; it may be gone already."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def drain(sock: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes from a stream."""
    data = bytearray()
    while len(data) < count:
        part = sock.recv(min(65536, count - len(data)))
        assert part, f"the stream ended {count - len(data)} bytes early"
        data += part
    return bytes(data)


class Case(NamedTuple):
    """A blocking call: ``steps`` sets the scene, yields the call, then checks what the broken call left behind."""

    steps: Callable[[Scene, Any], Any]
    calls: tuple[str, ...]
    timeout: float | None

    def run(self) -> None:
        with Scene() as scene:
            steps = self.steps(scene, self.timeout)
            broken(next(steps), *self.calls)
            for _ in steps:
                pytest.fail("a case has one yield")


class Cases:
    """The table of a test module. ``@cases(SEM)`` adds a case with and one without a time-out."""

    def __init__(self) -> None:
        self.params: list[Any] = []

    def __call__(
        self, *calls: str, timed: tuple[str, ...] = (), timeouts: tuple[float | None, ...] = (None, LONG), marks: Any = ()
    ) -> Callable[[Callable[[Scene, Any], Any]], Callable[[Scene, Any], Any]]:
        def add(steps: Callable[[Scene, Any], Any]) -> Callable[[Scene, Any], Any]:
            for timeout in timeouts:
                name = steps.__name__ + ("" if timeout is None else "-timeout")
                case = Case(steps, timed if timed and timeout is not None else calls, timeout)
                self.params.append(pytest.param(case, id=name, marks=marks))
            return steps

        return add


def lacks(module: Any, name: str) -> Any:
    """A mark for calls that this interpreter does not have."""
    return pytest.mark.skipif(not hasattr(module, name), reason=f"no {module.__name__}.{name} here")


def absent(what: str) -> NoReturn:
    """Skip the test; or fail it, where everything has to be there."""
    if os.environ.get("ITR_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{what}, and ITR_REQUIRE_SERVERS=1 asks for it", pytrace=False)
    pytest.skip(what)


def c_compiler() -> list[str]:
    """The command of a C compiler, as ``CC`` or the system has it."""
    command = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(command[0]) is None:
        absent(f"no C compiler: {command[0]} is not installed")
    return command


def run_python(*argv: str, input: str | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with the library preloaded (it is inherited); hang guard included."""
    environ = {**os.environ, **(env or {})}
    environ.pop("PYTHONUNBUFFERED", None)  # it hides in some surroundings that a script ends without a flush
    patience = PATIENCE + 0.05 * int(os.environ.get("ITR_TEST_COUNT") or 0)
    return subprocess.run([sys.executable, *argv], input=input, env=environ, capture_output=True, text=True, timeout=patience)


def run_script(body: str, *argv: str, env: dict[str, str] | None = None) -> str:
    """Standard output of a program that has to succeed with nothing on standard error."""
    done = run_python("-c", body, *argv, env=env)
    assert (done.returncode, done.stderr) == (0, ""), f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
