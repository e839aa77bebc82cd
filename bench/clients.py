"""From interrupt() to the except clause, in calls of clients built on C libraries and in look-ups. One run; prints JSON.

The servers are those of the tests (tests/python/servers.py). A client, or a server, that is not installed has no row.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable

from interruptible_threading import ThreadInterrupted, _core, interrupt

TESTS = Path(__file__).resolve().parent.parent / "tests" / "python"
sys.path.insert(0, str(TESTS))
FAR = 600.0

#: Gives the call to be interrupted. Made anew each time: an interrupted connection may be of no more use.
Make = Callable[[ExitStack], Callable[[], object]]


def settled(ident: int) -> str:
    """Wait until the thread has been in the same park for a while: a client talks to its server before. The call."""
    before: Any = None
    while True:
        now = _core.park_info(ident)
        if now and now["parked"] and before and (now["call"], now["since"]) == (before["call"], before["since"]):
            return str(now["call"])
        before = now if now and now["parked"] else None
        time.sleep(0.02)


def once(make: Make) -> tuple[str, float]:
    """Where it was parked, and the seconds it took."""
    caught: list[float] = []
    connected = threading.Event()

    def body() -> None:
        with ExitStack() as undo:
            call = make(undo)
            connected.set()
            try:
                call()
            except ThreadInterrupted:
                caught.append(time.perf_counter())

    thread = threading.Thread(target=body)
    thread.start()
    connected.wait()
    assert thread.ident is not None
    where = settled(thread.ident)
    started = time.perf_counter()
    interrupt(thread)
    thread.join()
    return where, caught[0] - started


def measure(make: Make, rounds: int) -> dict[str, Any]:
    done = [once(make) for _ in range(rounds)]
    times = sorted(seconds for _, seconds in done)
    return {"call": done[-1][0], "p50": times[len(times) // 2] * 1e6, "worst": times[-1] * 1e6}


def asking(module: Any, query: str, **options: Any) -> Make:
    def make(undo: ExitStack) -> Callable[[], object]:
        connection = module.connect(**options)
        undo.callback(connection.close)
        cursor = connection.cursor()
        return lambda: cursor.execute(query)

    return make


def sqlite(undo: ExitStack) -> Callable[[], object]:
    path = str(Path(undo.enter_context(tempfile.TemporaryDirectory()), "database"))
    holder, waiter = (sqlite3.connect(path, timeout=FAR, isolation_level=None) for _ in range(2))
    undo.callback(holder.close)
    undo.callback(waiter.close)
    holder.execute("begin exclusive")
    return lambda: waiter.execute("begin exclusive")


def zmq(undo: ExitStack) -> Callable[[], object]:
    module = import_module("zmq")
    context = undo.enter_context(module.Context())
    puller = undo.enter_context(context.socket(module.PULL))
    puller.linger = 0
    puller.bind("inproc://nobody")
    recv: Callable[[], object] = puller.recv
    return recv


def curl(undo: ExitStack) -> Callable[[], object]:
    module = import_module("pycurl")
    silent = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    easy = module.Curl()
    undo.callback(easy.close)
    easy.setopt(module.URL, f"http://127.0.0.1:{silent.getsockname()[1]}/")
    perform: Callable[[], object] = easy.perform
    return perform


def clients(rounds: int) -> dict[str, Any]:
    rows = {"sqlite3, busy": measure(sqlite, rounds)}
    for name, needs, make in (("pyzmq recv", "zmq", zmq), ("pycurl perform", "pycurl", curl)):
        if find_spec(needs) is not None:
            rows[name] = measure(make, rounds)
    if find_spec("pytest") is None:
        return rows
    servers = import_module("servers")
    for start, sleep, modules in (
        (servers.postgresql, "select pg_sleep(600)", {"psycopg2": "dsn", "psycopg": "conninfo"}),
        (servers.mariadb, "select sleep(600)", {"MySQLdb": "unix_socket", "pymysql": "unix_socket"}),
    ):
        found = {name: option for name, option in modules.items() if find_spec(name) is not None}
        with ExitStack() as undo:
            try:
                address = undo.enter_context(start())
            except BaseException as absent:  # pytest's skip
                if type(absent).__name__ != "Skipped":
                    raise
                continue
            for name, option in found.items():
                user = {"user": "root"} if option == "unix_socket" else {}
                rows[f"{name} execute"] = measure(asking(import_module(name), sleep, **{option: address}, **user), rounds)
    return rows


def lookups(rounds: int) -> dict[str, Any]:
    """In a network whose name server is silent (tests/python/silent_dns.py)."""
    silent = import_module("silent_dns").SILENT
    return {"getaddrinfo": measure(lambda undo: lambda: socket.getaddrinfo(silent, 80), rounds)}


def main() -> None:
    rounds = int(sys.argv[1])
    if "lookups" in sys.argv:
        print(json.dumps(lookups(rounds)))
        return
    rows = clients(rounds)
    silent_dns = import_module("silent_dns")
    if not silent_dns.trouble():
        again = [sys.executable, "-m", "interruptible_threading", "run", __file__, str(rounds), "lookups"]
        done = subprocess.run([sys.executable, str(TESTS / "silent_dns.py"), *again], stdout=subprocess.PIPE, check=True)
        rows.update(json.loads(done.stdout))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
