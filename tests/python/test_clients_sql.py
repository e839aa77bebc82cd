"""Database clients, against real servers: psycopg2, psycopg 3, mysqlclient, PyMySQL, and sqlite3 waiting for a lock."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from client_support import assert_in_sync_or_broken, assert_masked, interrupted, settled, storm
from interruptible_threading import ThreadInterrupted, deliver_on_blocking, interrupt
from servers import need_module
from stress_support import count, rng
from support import EPOLL, GUARD, LONG, PATIENCE, POLL, RECV, SEM, SLEEP, Worker, in_thread, parked, wait_until

#: Whichever comes first sets its server up.
pytestmark = pytest.mark.hang_guard(2 * PATIENCE)
SELECT = ("select", "pselect", *POLL, *EPOLL)
#: Locks of the servers' own, a new one for each query that waits for one.
LOCKS = itertools.count(1)


class Dialect(NamedTuple):
    """What the tests say to a server."""

    #: Takes a while, and then gives 7.
    sleep: str
    #: Gives 7, and has the lock from then on, until its connection is closed or unlocks it.
    lock: str
    unlock: str
    session: str
    #: How many sessions of that number are busy.
    busy: str


POSTGRESQL = Dialect(
    "select 7 from pg_sleep({})",
    "select 7 from pg_advisory_lock({})",
    "select pg_advisory_unlock({})",
    "select pg_backend_pid()",
    "select count(*) from pg_stat_activity where pid = {} and state = 'active'",
)
MARIADB = Dialect(
    "select 7 + sleep({})",
    f"select 6 + get_lock('lock {{}}', {int(LONG)})",
    "select release_lock('lock {}')",
    "select connection_id()",
    "select count(*) from information_schema.processlist where id = {} and command <> 'Sleep'",
)


class Database:
    """How the tests talk to one kind of database through one client (DB-API 2.0)."""

    def __init__(self, module: Any, connect: Callable[..., Any], dialect: Dialect, calls: tuple[str, ...]) -> None:
        self.module = module
        self.connect = connect
        self.calls = calls
        self.dialect = dialect

    def sleep(self, seconds: float) -> str:
        """A query that takes a while and then gives one row."""
        return self.dialect.sleep.format(seconds)

    @contextmanager
    def late(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """A query that is answered with 7 when the second is called, and not before."""
        number = next(LOCKS)
        query = self.dialect.lock.format(number)
        with closing(self.connect()) as holder:
            assert self.ask(holder, query) == 7
            yield query, partial(self.ask, holder, self.dialect.unlock.format(number))

    def at_rest(self, session: int) -> bool:
        """Whether the server has done what that session had asked for."""
        with closing(self.connect()) as another:
            return bool(self.ask(another, self.dialect.busy.format(session)) == 0)

    def ask(self, connection: Any, query: str = "select 42") -> Any:
        with closing(connection.cursor()) as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def check(self, connection: Any, meanwhile: Callable[[], Any] = lambda: None) -> None:
        """A connection whose query was interrupted; and the server, which does not mind."""
        assert_in_sync_or_broken(partial(self.ask, connection), 42, self.module.Error, meanwhile=meanwhile)
        Worker(connection.close).finish()
        with closing(self.connect()) as another:
            assert self.ask(another) == 42


@pytest.fixture
def psycopg2(postgresql_dsn: str) -> Database:
    module = need_module("psycopg2")
    return Database(module, partial(module.connect, postgresql_dsn), POSTGRESQL, POLL)


@pytest.fixture
def psycopg3(postgresql_dsn: str) -> Database:
    module = need_module("psycopg")
    return Database(module, partial(module.connect, postgresql_dsn), POSTGRESQL, SELECT)


@pytest.fixture
def mysqlclient(mariadb_socket: str) -> Database:
    module = need_module("MySQLdb")
    connect = partial(module.connect, unix_socket=mariadb_socket, user="root")
    return Database(module, connect, MARIADB, POLL)


@pytest.fixture
def pymysql(mariadb_socket: str) -> Database:
    module = need_module("pymysql")
    connect = partial(module.connect, unix_socket=mariadb_socket, user="root")
    return Database(module, connect, MARIADB, RECV)


CLIENTS = ["psycopg2", "psycopg3", "mysqlclient", "pymysql"]


@pytest.fixture(params=CLIENTS)
def database(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


# ---- what holds for all of them ----------------------------------------------------------------------------------------------


def test_query(database: Database, quiet: None) -> None:
    connection = database.connect()
    interrupted(partial(database.ask, connection, database.sleep(LONG)), *database.calls)
    database.check(connection)


def test_late_answer(database: Database, quiet: None) -> None:
    """The answer to the interrupted query arrives when the connection has been asked for something else."""
    connection = database.connect()
    with database.late() as (query, answer):
        interrupted(partial(database.ask, connection, query), *database.calls)
        database.check(connection, meanwhile=answer)


def test_late_answer_after_waiting_for_it(database: Database, quiet: None) -> None:
    """It has arrived already."""
    connection = database.connect()
    session = database.ask(connection, database.dialect.session)
    with database.late() as (query, answer):
        interrupted(partial(database.ask, connection, query), *database.calls)
        answer()
        wait_until(lambda: database.at_rest(session), "the server has answered")
        database.check(connection)


def test_rollback(database: Database, quiet: None) -> None:
    """What a program does in its ``finally``: it does not wait for the query's own end."""
    connection = database.connect()
    interrupted(partial(database.ask, connection, database.sleep(LONG)), *database.calls)
    outcome = Worker(connection.rollback).finish()
    assert outcome.error is None or isinstance(outcome.error, database.module.Error), repr(outcome.error)
    database.check(connection)


def test_masked(database: Database, quiet: None) -> None:
    with closing(database.connect()) as connection, database.late() as (query, answer):
        assert_masked(partial(database.ask, connection, query), 7, *database.calls, let_answer=answer)
        assert database.ask(connection) == 42


def test_storm(database: Database, quiet: None) -> None:
    def call() -> None:
        with closing(database.connect()) as connection:
            database.ask(connection, database.sleep(LONG))

    storm(call)
    with closing(database.connect()) as connection:
        assert database.ask(connection) == 42


def test_completed_query_keeps_its_result(database: Database, quiet: None) -> None:
    """The next query after an interrupt that came between two of them works: nothing is left over."""
    with closing(database.connect()) as connection:
        interrupted(partial(time.sleep, LONG), *SLEEP)
        assert in_thread(partial(database.ask, connection, database.sleep(0))) == 7


# ---- PostgreSQL --------------------------------------------------------------------------------------------------------------


def psycopg2_calls(connection: Any) -> dict[str, Callable[[], Any]]:
    cursor = connection.cursor()
    return {
        "execute": lambda: cursor.execute("select pg_sleep(%s)", (LONG,)),
        "executemany": lambda: cursor.executemany("select pg_sleep(%s)", [(LONG,)]),
        "callproc": lambda: cursor.callproc("pg_sleep", [LONG]),
        "copy_expert": lambda: cursor.copy_expert(f"copy (select pg_sleep({LONG})) to stdout", open("/dev/null", "w")),
        "commit": lambda: (cursor.execute(f"create temporary table t (a int); {DEFERRED}"), connection.commit()),
    }


#: A constraint that is checked, slowly, by the commit.
DEFERRED = f"""
    create function pg_temp.slow() returns trigger language plpgsql as 'begin perform pg_sleep({LONG}); return null; end';
    create constraint trigger slow after insert on t deferrable initially deferred for each row execute function pg_temp.slow();
    insert into t values (1);
"""


@pytest.mark.parametrize("name", ["execute", "executemany", "callproc", "copy_expert", "commit"])
def test_psycopg2_call(psycopg2: Database, name: str, quiet: None) -> None:
    connection = psycopg2.connect()
    interrupted(psycopg2_calls(connection)[name], *POLL)
    psycopg2.check(connection)


def test_psycopg2_connect(silent_port: int, quiet: None) -> None:
    module = need_module("psycopg2")
    connect = partial(module.connect, host="127.0.0.1", port=silent_port, user="nobody")
    interrupted(connect, *POLL)
    interrupted(partial(connect, sslmode="disable"), *POLL)


def test_psycopg2_green(psycopg2: Database, quiet: None) -> None:
    """With its own wait callback it waits in Python's ``select``."""
    extras = need_module("psycopg2.extras")
    extensions = need_module("psycopg2.extensions")
    extensions.set_wait_callback(extras.wait_select)
    try:
        connection = psycopg2.connect()
        interrupted(partial(psycopg2.ask, connection, psycopg2.sleep(LONG)), *SELECT)
        psycopg2.check(connection)
    finally:
        extensions.set_wait_callback(None)


def test_psycopg2_pool(psycopg2: Database, postgresql_dsn: str, quiet: None) -> None:
    pool = need_module("psycopg2.pool").ThreadedConnectionPool(1, 1, postgresql_dsn)

    @contextmanager
    def borrowed() -> Iterator[Any]:
        connection = pool.getconn()
        try:
            yield connection
        finally:
            pool.putconn(connection)

    def query(text: str) -> Any:
        with borrowed() as connection:
            return psycopg2.ask(connection, text)

    for _ in range(3):
        interrupted(partial(query, psycopg2.sleep(LONG)), *POLL)
        assert in_thread(partial(query, "select 42")) == 42
    in_thread(pool.closeall)


def test_psycopg3_connect(silent_port: int, quiet: None) -> None:
    module = need_module("psycopg")
    connect = partial(module.connect, host="127.0.0.1", port=silent_port, user="nobody", connect_timeout=LONG)
    interrupted(connect, *SELECT)


def test_psycopg3_connects_at_any_moment(psycopg3: Database, quiet: None) -> None:
    """An interrupt that comes between two waits is never an error of the library's: libpq reads the answer that is there."""
    caught: list[int] = []
    stop = threading.Event()

    def run() -> None:
        with deliver_on_blocking():
            while not stop.is_set():
                try:
                    while not stop.is_set():
                        psycopg3.connect().close()
                except ThreadInterrupted as error:
                    caught.append(error.interrupt_id)

    worker = Worker(run)
    handles = []
    dice = rng("connects")
    for _ in range(count(100)):
        time.sleep(dice.random() * 0.006)
        handles.append(interrupt(worker))
        assert handles[-1].wait(GUARD), handles[-1].explain()
    stop.set()
    worker.value()
    assert caught == [handle.id for handle in handles]


@pytest.mark.parametrize("wait", ["wait_selector", "wait_select", "wait_epoll", "wait_poll"])
def test_psycopg3_waiting_in_python(psycopg3: Database, wait: str, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    """Without its C implementation it waits in Python, in whatever of these the platform has."""
    waiting = need_module("psycopg.waiting")
    if not hasattr(waiting, wait):
        pytest.skip(f"this psycopg has no {wait}")
    monkeypatch.setattr(waiting, "wait", getattr(waiting, wait))
    connection = psycopg3.connect()
    interrupted(partial(psycopg3.ask, connection, psycopg3.sleep(LONG)), *SELECT)
    psycopg3.check(connection)


def test_psycopg3_does_not_finish_its_slice(psycopg3: Database, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    """It waits in slices of a tenth of a second, and looks for signals behind each: an interrupt came that much late."""
    connection = psycopg3.connect()
    wait = connection.wait
    monkeypatch.setattr(connection, "wait", lambda generator, *_: wait(generator, 100 * GUARD))
    interrupted(partial(psycopg3.ask, connection, psycopg3.sleep(LONG)), *SELECT)
    psycopg3.check(connection)


@contextmanager
def psycopg3_pool(dsn: str) -> Iterator[Any]:
    """A pool of one connection, whose own time-outs nobody sees pass: at the end of its patience it warns on standard error."""
    pool = need_module("psycopg_pool").ConnectionPool(dsn, min_size=1, max_size=1, open=True, timeout=LONG)
    try:
        pool.wait(GUARD)
        yield pool
    finally:
        pool.close(GUARD)


def test_psycopg3_pool(psycopg3: Database, postgresql_dsn: str, quiet: None) -> None:
    def query(pool: Any, text: str) -> Any:
        with pool.connection() as connection:
            return psycopg3.ask(connection, text)

    with psycopg3_pool(postgresql_dsn) as pool:
        for _ in range(3):
            interrupted(partial(query, pool, psycopg3.sleep(LONG)), *SELECT)
            assert in_thread(partial(query, pool, "select 42")) == 42


def test_psycopg3_waiting_for_the_pool(psycopg3: Database, postgresql_dsn: str, quiet: None) -> None:
    """The pool takes a waiting thread out of its queue at an ``Exception`` only, so that is what it has to be given.

    At any other, such as KeyboardInterrupt, it later gives a connection to the thread that has left.
    """

    class Cancelled(Exception):
        pass

    with psycopg3_pool(postgresql_dsn) as pool:
        with pool.connection():
            worker = Worker(pool.getconn)
            settled(worker, *SEM)
            handle = interrupt(worker, exc=Cancelled)
            assert type(worker.finish(handle).error) is Cancelled
        with pool.connection(timeout=GUARD) as connection:
            assert psycopg3.ask(connection) == 42


# ---- MariaDB -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mysqlclient", "pymysql"])
@pytest.mark.parametrize("timeout", [{}, {"read_timeout": int(LONG)}], ids=["", "timeout"])
def test_mysql_timeout(request: pytest.FixtureRequest, name: str, timeout: dict[str, int], quiet: None) -> None:
    database: Database = request.getfixturevalue(name)
    connection = database.connect(**timeout)
    interrupted(partial(database.ask, connection, database.sleep(LONG)), *POLL, *RECV)
    database.check(connection)


@pytest.mark.parametrize("name", ["MySQLdb", "pymysql"])
def test_mysql_connect(name: str, silent_port: int, quiet: None) -> None:
    module = need_module(name)
    connect = partial(module.connect, host="127.0.0.1", port=silent_port, user="root")
    interrupted(partial(connect, connect_timeout=int(LONG)), *POLL, *RECV)


@pytest.mark.parametrize("method", ["query", "ping", "commit", "execute-unbuffered"])
def test_mysqlclient_methods(mysqlclient: Database, method: str, quiet: None) -> None:
    """The low-level query; those that only talk to the server; and a cursor that fetches row by row."""
    connection = mysqlclient.connect()
    if method == "query":
        interrupted(partial(connection.query, mysqlclient.sleep(LONG)), *POLL)
    elif method == "execute-unbuffered":
        cursor = connection.cursor(need_module("MySQLdb.cursors").SSCursor)
        interrupted(partial(cursor.execute, mysqlclient.sleep(LONG)), *POLL)
    else:
        assert in_thread(getattr(connection, method)) is None
    mysqlclient.check(connection)


# ---- sqlite3 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A database that another connection has locked."""
    path = tmp_path / "data"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as owner:
        owner.execute("create table t (a)")
        owner.execute("begin exclusive")
        yield path
        owner.execute("rollback")


def sqlite_call(name: str, connection: sqlite3.Connection) -> Any:
    cursor = connection.cursor()
    calls: dict[str, Callable[[], Any]] = {
        "execute": lambda: connection.execute("insert into t values (1)"),
        "cursor.execute": lambda: cursor.execute("insert into t values (1)"),
        "executemany": lambda: cursor.executemany("insert into t values (?)", [(1,)]),
        "executescript": lambda: cursor.executescript("insert into t values (1)"),
        "select": lambda: connection.execute("select * from t").fetchall(),
    }
    return calls[name]()


@pytest.mark.parametrize("name", ["execute", "cursor.execute", "executemany", "executescript", "select"])
def test_sqlite_busy(locked: Path, name: str, quiet: None) -> None:
    """The library sleeps in slices, counting them, until its time-out has passed."""
    with closing(sqlite3.connect(locked, timeout=LONG, check_same_thread=False)) as connection:
        interrupted(partial(sqlite_call, name, connection))
        connection.execute("pragma busy_timeout = 0")
        # SQLite 3.53 reads the schema again, for which it needs the lock.
        with suppress(sqlite3.OperationalError):
            assert connection.execute("select 42").fetchone() == (42,)


def test_sqlite_busy_commit(tmp_path: Path, quiet: None) -> None:
    """A reader keeps the writer from committing; the transaction is there afterwards, and can be committed."""
    path = tmp_path / "data"
    connect = partial(sqlite3.connect, path, timeout=LONG, check_same_thread=False)
    with closing(connect()) as writer, closing(connect()) as reader:
        writer.execute("create table t (a)")
        writer.executemany("insert into t values (?)", [(1,), (2,)])
        writer.commit()
        reading = reader.execute("select * from t")
        reading.fetchone()
        writer.execute("insert into t values (3)")
        interrupted(writer.commit)
        assert writer.in_transaction
        reading.close()
        writer.commit()
        assert reader.execute("select count(*) from t").fetchone() == (3,)


def test_sqlite_lock_is_gone_in_time(tmp_path: Path, quiet: None) -> None:
    """Without an interrupt, waiting for a lock is what it was."""
    path = tmp_path / "data"
    connect = partial(sqlite3.connect, path, timeout=LONG, isolation_level=None, check_same_thread=False)
    with closing(connect()) as owner, closing(connect()) as other:
        owner.execute("create table t (a)")
        owner.execute("begin exclusive")
        waiting = Worker(partial(other.execute, "insert into t values (1)"))
        parked(waiting, "usleep", "nanosleep", "clock_nanosleep")
        owner.execute("commit")
        waiting.value()
        assert owner.execute("select count(*) from t").fetchone() == (1,)
