"""Message queues and caches: redis, against a real server, pymemcache, and pyzmq."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from client_support import assert_in_sync_or_broken, assert_masked, interrupted, storm
from interruptible_threading import ThreadInterrupted, interrupt
from servers import need_module
from support import EPOLL, GUARD, LONG, POLL, RECV, SEM, SLEEP, Worker, in_thread, parked, wait_until

# ---- redis ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_pool(redis_socket: str) -> Iterator[Any]:
    """A pool of one connection, so that every call uses it again."""
    module = need_module("redis")
    pool = module.BlockingConnectionPool(
        connection_class=module.UnixDomainSocketConnection, path=redis_socket, max_connections=1, timeout=LONG, socket_timeout=None
    )
    yield pool
    pool.disconnect()


@pytest.fixture
def redis_client(redis_pool: Any) -> Any:
    client = need_module("redis").Redis(connection_pool=redis_pool)
    client.flushall()
    return client


def test_redis_blpop(redis_client: Any, quiet: None) -> None:
    """The answer to the interrupted call goes to nobody, and the next one gets its own."""
    for turn in range(3):
        interrupted(partial(redis_client.blpop, "queue"), *RECV)
        redis_client.set("key", turn)
        assert in_thread(partial(redis_client.get, "key")) == b"%d" % turn
    # Nobody is left on the server who waits for the item.
    redis_client.rpush("queue", "item")
    assert in_thread(partial(redis_client.blpop, "queue", timeout=int(GUARD))) == (b"queue", b"item")


def test_redis_late_answer(redis_client: Any, redis_socket: str, quiet: None) -> None:
    other = need_module("redis").Redis(unix_socket_path=redis_socket)
    interrupted(partial(redis_client.blpop, "queue"), *RECV)
    other.rpush("queue", "item")
    assert in_thread(partial(redis_client.echo, "own")) == b"own"
    other.close()


def test_redis_single_connection(redis_client: Any, quiet: None) -> None:
    module = need_module("redis")
    client = redis_client.client()
    interrupted(partial(client.blpop, "queue"), *RECV)
    assert_in_sync_or_broken(partial(client.echo, "own"), b"own", module.RedisError)
    client.close()


def test_redis_timeout(redis_client: Any, redis_socket: str, quiet: None) -> None:
    """With a time-out the socket is polled first."""
    client = need_module("redis").Redis(unix_socket_path=redis_socket, socket_timeout=LONG)
    interrupted(partial(client.blpop, "queue"), *POLL, *RECV)
    assert in_thread(partial(client.echo, "own")) == b"own"
    client.close()


def test_redis_pubsub(redis_client: Any, redis_socket: str, quiet: None) -> None:
    listening = need_module("redis").Redis(unix_socket_path=redis_socket, socket_timeout=None).pubsub()
    listening.subscribe("channel")
    assert in_thread(partial(next, listening.listen()))["type"] == "subscribe"
    interrupted(partial(next, listening.listen()), *RECV, *POLL, *EPOLL, "select")
    listening.close()


def test_redis_waiting_for_the_pool(redis_client: Any, redis_pool: Any, quiet: None) -> None:
    connection = redis_pool.get_connection()
    interrupted(partial(redis_client.echo, "own"), *SEM)
    redis_pool.release(connection)
    assert in_thread(partial(redis_client.echo, "own")) == b"own"


def test_redis_masked(redis_client: Any, redis_socket: str, quiet: None) -> None:
    other = need_module("redis").Redis(unix_socket_path=redis_socket)
    push = partial(other.rpush, "queue", "item")
    assert_masked(partial(redis_client.blpop, "queue"), (b"queue", b"item"), *RECV, let_answer=push)
    other.close()
    assert in_thread(partial(redis_client.echo, "own")) == b"own"


def test_redis_storm(redis_client: Any, quiet: None) -> None:
    storm(partial(redis_client.blpop, "queue"))
    assert in_thread(partial(redis_client.echo, "own")) == b"own"


def test_redis_asyncio(redis_socket: str, quiet: None) -> None:
    module = need_module("redis.asyncio")

    async def main() -> None:
        client = module.Redis(unix_socket_path=redis_socket, socket_timeout=None)
        try:
            await client.blpop("queue")
        finally:
            await client.aclose()

    interrupted(lambda: asyncio.run(main()), *EPOLL)


# ---- memcached -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, LONG], ids=["", "timeout"])
def test_pymemcache(silent_port: int, timeout: float | None, quiet: None) -> None:
    module = need_module("pymemcache")
    client = module.Client(("127.0.0.1", silent_port), timeout=timeout, connect_timeout=timeout)
    interrupted(partial(client.get, "key"), *RECV, *POLL)
    client.close()


def test_pymemcache_pool(memcached_address: tuple[str, int], quiet: None) -> None:
    """A server that answers is not disturbed by clients that were interrupted elsewhere, between their calls."""
    module = need_module("pymemcache")
    pooled = module.PooledClient(memcached_address, max_pool_size=1)
    pooled.set("key", "value")

    def use() -> None:
        assert pooled.get("key") == b"value"
        time.sleep(LONG)

    interrupted(use, *SLEEP)
    assert in_thread(partial(pooled.get, "key")) == b"value"
    pooled.close()


# ---- pyzmq -----------------------------------------------------------------------------------------------------------------------


#: Contexts of tests that failed: closing a socket under a stuck thread would abort the process, and ending its context
#: waits for the socket to be closed.
abandoned: list[Any] = []


@contextmanager
def zmq_sockets(*kinds: str) -> Iterator[Any]:
    """Sockets of their own context."""
    module = need_module("zmq")
    ctx = module.Context()
    made = [ctx.socket(getattr(module, kind)) for kind in kinds]
    abandoned.append((ctx, made))
    yield made
    if not any(isinstance(thread, Worker) for thread in threading.enumerate()):
        abandoned.pop()
        ctx.destroy(linger=0)


@pytest.fixture
def zmq_pair() -> Iterator[Any]:
    with zmq_sockets("PAIR", "PAIR") as (a, b):
        a.bind("tcp://127.0.0.1:*")
        b.connect(a.last_endpoint.decode())
        yield a, b


ZMQ = ["recv", "recv_multipart", "recv_string", "poll", "Poller.poll", "proxy"]


def zmq_call(name: str, sock: Any) -> Any:
    module = need_module("zmq")
    if name == "Poller.poll":
        poller = module.Poller()
        poller.register(sock, module.POLLIN)
        return poller.poll(LONG * 1000)
    if name == "proxy":
        return module.proxy(sock, sock)
    return sock.poll(LONG * 1000) if name == "poll" else getattr(sock, name)()


@pytest.mark.parametrize("name", ZMQ)
def test_zmq(zmq_pair: tuple[Any, Any], name: str, quiet: None) -> None:
    """The library aborts the process at any errno but EINTR; the socket it was waiting for is as good as new."""
    a, b = zmq_pair
    for turn in range(3):
        interrupted(partial(zmq_call, name, a), *POLL)
        b.send(b"%d" % turn)
        assert in_thread(a.recv) == b"%d" % turn


def test_zmq_send(quiet: None) -> None:
    """Nobody takes what is sent."""
    with zmq_sockets("PUSH") as (sock,):
        sock.bind("tcp://127.0.0.1:*")
        for _ in range(3):
            interrupted(partial(sock.send, b"x"), *POLL)


def test_zmq_masked(zmq_pair: tuple[Any, Any], quiet: None) -> None:
    a, b = zmq_pair
    a.rcvtimeo = int(LONG * 1000)
    assert_masked(a.recv, b"message", *POLL, let_answer=partial(b.send, b"message"))


def test_zmq_storm(zmq_pair: tuple[Any, Any], quiet: None) -> None:
    a, b = zmq_pair
    storm(a.recv, rounds=50)
    b.send(b"message")
    assert in_thread(a.recv) == b"message"


def test_zmq_messages_arrive_once(zmq_pair: tuple[Any, Any], quiet: None) -> None:
    """What comes at the same time as an interrupt is received by that call or by the next, but never lost or twice."""
    a, b = zmq_pair
    count = 300
    got: list[int] = []

    def receive() -> None:
        while True:
            try:
                while True:
                    number = int(a.recv())
                    if number == count:  # which comes when no interrupt does, so that it is not lost, whatever else was
                        return
                    got.append(number)
            except ThreadInterrupted:
                continue

    worker = Worker(receive)
    parked(worker, *POLL)
    for number in range(count):
        b.send(b"%d" % number)
        handle = interrupt(worker)
        wait_until(lambda: handle.state != "pending" or not worker.is_alive(), "it is delivered")
        if not worker.is_alive():
            break
    b.send(b"%d" % count)
    with suppress(ThreadInterrupted):  # one may have come outside of the inner loop
        worker.value()
    # A message can be taken by a call whose result the interrupt replaces in the program's own line, but not twice.
    assert got == sorted(set(got))
