"""Real servers for the tests of real clients, and fixtures that start each of them once for a run.

A server lives in a temporary folder, listens on a socket there, keeps its data in no other place, and runs as "nobody"
when the tests run as root (PostgreSQL and MariaDB refuse root). It is ready when it answers, and it ends with the test
run, however that ends: the kernel tells it of its parent's death.

A server or a client package that is not installed skips the tests that need it, and says so. With ITR_REQUIRE_SERVERS=1
that is a failure, on the interpreters for which scripts/pythons.py was to install the clients.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NoReturn

import pytest
import support
from support import GUARD, PATIENCE, wait_until

#: Where programs are that a user does not start: Debian puts PostgreSQL's outside every PATH.
FOLDERS = ["/usr/sbin", "/usr/local/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
#: What scripts/pythons.py leaves in an environment that it has put the clients into.
WITH_CLIENTS = Path(sys.prefix, "clients")


def absent(what: str) -> NoReturn:
    """Skip the test; or fail it, in an environment that has all the others."""
    if WITH_CLIENTS.exists():
        support.absent(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def need_module(name: str) -> Any:
    """Import a client package. One that is there but cannot be imported is an error of its own."""
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        absent(f"the package {name}")
    return importlib.import_module(name)


def need_program(name: str) -> str:
    """The path of a server's program."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(FOLDERS))
    if path is None:
        absent(f"the program {name}")
    return path


class Server:
    """A temporary folder, and programs that run in it without privileges and without the library."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Not pytest's own: its folders are closed to others, and their names too long for a socket's address.
        self.folder = Path(tempfile.mkdtemp(prefix=f"itr-{name}-"))
        self._prefix: list[str] = []
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            self._prefix = [setpriv]
        if os.geteuid() == 0:
            if setpriv is None:
                absent("the program setpriv")
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._prefix += [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        self._environ = {key: os.environ[key] for key in ("PATH", "TZ") if key in os.environ}
        self._environ.update(HOME=str(self.folder), LC_ALL="C")

    def command(self, argv: tuple[object, ...], stop: signal.Signals = signal.SIGTERM) -> list[str]:
        prefix = [*self._prefix, "--pdeathsig", stop.name[3:]] if self._prefix else []
        return [*prefix, *map(str, argv)]

    def run(self, *argv: object) -> None:
        """Run a program that prepares something, to its end."""
        done = subprocess.run(
            self.command(argv), cwd="/", env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{argv[0]} failed: {done.stdout.decode(errors='replace')}"

    @contextmanager
    def running(
        self, *argv: object, ready: Callable[[], bool], stop: signal.Signals = signal.SIGTERM, **environ: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start the server, wait until ``ready()``, and stop it in the end."""
        log = self.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(argv, stop),
                cwd="/",
                env={**self._environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def up() -> bool:
            assert process.poll() is None, f"{self.name} ended with {process.returncode}: {log.read_text(errors='replace')[-4000:]}"
            return ready()

        try:
            wait_until(up, f"{self.name} gets ready")
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(GUARD)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def server(name: str) -> Iterator[Server]:
    made = Server(name)
    try:
        yield made
    finally:
        made.remove()


def answers(address: str | tuple[str, int], question: bytes = b"") -> bool:
    """Whether something listens there, and says anything at all (in answer to ``question``)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        probe.settimeout(GUARD)
        probe.connect(address)
        probe.sendall(question)
        return probe.recv(1) != b""
    return False


# ---- databases ---------------------------------------------------------------------------------------------------------------


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server; gives the connection string."""
    programs = [need_program(name) for name in ("initdb", "postgres", "pg_isready")]
    # The programs of one version, all from the folder of the server's own.
    initdb, postgres, pg_isready = (str(Path(os.path.realpath(programs[1])).with_name(Path(name).name)) for name in programs)
    with server("pg") as home:
        data = home.folder / "data"
        home.run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        probe = home.command((pg_isready, "-q", "-h", home.folder, "-U", "postgres"))
        with home.running(
            *(postgres, "-D", data, "-k", home.folder, "-c", "listen_addresses=", "-F"),
            ready=lambda: subprocess.run(probe, cwd="/", env={}).returncode == 0,
            stop=signal.SIGINT,  # the "fast" shutdown: it does not wait for clients to leave
        ):
            yield f"host={home.folder} user=postgres dbname=postgres"


@contextmanager
def mariadb() -> Iterator[str]:
    """A MariaDB server; gives the path of its socket, on which root needs no password."""
    install, daemon = need_program("mariadb-install-db"), need_program("mariadbd")
    with server("my") as home:
        data, address = home.folder / "data", str(home.folder / "s.sock")
        small = ["--innodb-log-file-size=4M"]
        home.run(
            *(install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"),
            *("--skip-name-resolve", *small),
        )
        with home.running(
            *(daemon, "--no-defaults", f"--datadir={data}", f"--socket={address}", f"--pid-file={home.folder / 'pid'}"),
            *("--skip-networking", "--innodb-buffer-pool-size=16M", *small),
            ready=lambda: answers(address),
        ):
            yield address


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server; gives the path of its socket."""
    program = need_program("redis-server")
    with server("redis") as home:
        address = str(home.folder / "r.sock")
        options = ["--port", "0", "--unixsocket", address, "--save", "", "--appendonly", "no", "--dir", home.folder]
        with home.running(program, *options, ready=lambda: answers(address, b"PING\r\n")):
            yield address


@contextmanager
def memcached() -> Iterator[tuple[str, int]]:
    """A memcached server; gives its address."""
    program = need_program("memcached")
    with server("memcached") as home:
        written = home.folder / "port"

        def address() -> tuple[str, int] | None:
            with contextlib.suppress(OSError):
                found = re.search(r"TCP INET: (\d+)", written.read_text())
                return ("127.0.0.1", int(found.group(1))) if found else None
            return None

        def ready() -> bool:
            where = address()
            return where is not None and answers(where, b"version\r\n")

        with home.running(program, "-l", "127.0.0.1", "-p", "-1", "-U", "0", ready=ready, MEMCACHED_PORT_FILENAME=str(written)):
            where = address()
            assert where is not None
            yield where


# ---- fixtures: each server is started by the first test that wants it --------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql_dsn() -> Iterator[str]:
    with postgresql() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def mariadb_socket() -> Iterator[str]:
    with mariadb() as address:
        yield address


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[str]:
    with redis() as address:
        yield address


@pytest.fixture(scope="session")
def memcached_address() -> Iterator[tuple[str, int]]:
    with memcached() as address:
        yield address


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything: nobody accepts them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]
