"""Queues, caches and event loops: redis, pymemcache, pyzmq, asyncio, uvloop, and processes that work for a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from client_support import assert_idle, assert_in_sync_or_broken, assert_masked, assert_raised, interrupted, settled, storm
from interruptible_threading import ThreadInterrupted, interrupt, run_interruptible
from servers import need_module
from support import EPOLL, GUARD, LONG, POLL, READ, RECV, SEM, SLEEP, Worker, in_thread, parked, run_script, wait_until

context = multiprocessing.get_context("spawn")

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


def test_redis_masked(redis_client: Any, quiet: None) -> None:
    assert_masked(partial(redis_client.blpop, "queue", timeout=1), None, *RECV)
    assert in_thread(partial(redis_client.echo, "own")) == b"own"


def test_redis_storm(redis_client: Any, quiet: None) -> None:
    storm(partial(redis_client.blpop, "queue"))
    assert in_thread(partial(redis_client.echo, "own")) == b"own"


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


@contextmanager
def zmq_sockets(*kinds: str) -> Iterator[Any]:
    """Sockets of their own context. They are left open when a thread is stuck in one: closing it would abort the process."""
    module = need_module("zmq")
    ctx = module.Context()
    made = [ctx.socket(getattr(module, kind)) for kind in kinds]
    yield made
    if not any(isinstance(thread, Worker) for thread in threading.enumerate()):
        ctx.destroy(linger=0)


@pytest.fixture
def zmq_pair() -> Iterator[Any]:
    with zmq_sockets("PAIR", "PAIR") as (a, b):
        b.connect(f"tcp://127.0.0.1:{a.bind_to_random_port('tcp://127.0.0.1')}")
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
    a, _ = zmq_pair
    a.rcvtimeo = 1000

    def receive() -> Any:
        with suppress(need_module("zmq").Again):
            return a.recv()
        return "nothing came"

    assert_masked(receive, "nothing came", *POLL)


def test_zmq_storm(zmq_pair: tuple[Any, Any], quiet: None) -> None:
    a, b = zmq_pair
    storm(a.recv, rounds=50)
    b.send(b"message")
    assert in_thread(a.recv) == b"message"


def test_zmq_messages_arrive_once(zmq_pair: tuple[Any, Any], quiet: None) -> None:
    """What comes at the same time as an interrupt is received by that call or by the next, but never lost or twice."""
    a, b = zmq_pair
    count, got = 300, []

    def receive() -> None:
        while len(got) < count:
            try:
                while len(got) < count:
                    got.append(int(a.recv()))
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
    with suppress(ThreadInterrupted):  # the last one may have come behind the loop
        worker.value()
    # A message can be taken by a call whose result the interrupt replaces in the program's own line, but not twice.
    assert got == sorted(set(got))


# ---- event loops -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What asyncio.run() and run_interruptible() make their loops of."""
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "new_event_loop", need_module("uvloop").new_event_loop)
        monkeypatch.setattr(asyncio.events, "new_event_loop", asyncio.new_event_loop)
    return str(request.param)


def test_run_interruptible(loops: str, silent_port: int, quiet: None) -> None:
    """A loop that waits for a connection in a worker thread: what its tasks hold is given back; another loop works."""
    kinds: list[str] = []
    waiting = threading.Event()

    async def main() -> None:
        kinds.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", silent_port)
        try:
            asyncio.get_running_loop().call_soon(waiting.set)
            await reader.read(1)
        finally:
            writer.close()
            await asyncio.sleep(0.001)
            kinds.append("cleaned up")

    for _ in range(3):
        kinds.clear()
        waiting.clear()
        worker = Worker(lambda: run_interruptible(main()))
        assert waiting.wait(GUARD)
        settled(worker, *EPOLL)
        assert_raised(worker, interrupt(worker))
        assert kinds == [loops, "cleaned up"]
    assert in_thread(lambda: run_interruptible(asyncio.sleep(0.001, "answer"))) == "answer"


def test_loop_storm(loops: str, quiet: None) -> None:
    storm(lambda: run_interruptible(asyncio.sleep(LONG)), rounds=10)


def test_asyncio_run(silent_port: int, quiet: None) -> None:
    """Without its help: the wait of the loop itself is broken, and asyncio.run() cleans up."""
    steps: list[str] = []

    async def main() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", silent_port)
        try:
            await asyncio.sleep(LONG)
        finally:
            writer.close()
            steps.append("cleaned up")

    for turn in range(3):
        interrupted(lambda: asyncio.run(main()), *EPOLL)
        assert steps == ["cleaned up"] * (turn + 1)


def test_uvloop_run(quiet: None) -> None:
    """libuv waits on, whatever it is told: the interrupt comes with the next piece of Python code that the loop runs."""
    module = need_module("uvloop")
    loops: list[Any] = []

    async def main() -> None:
        event = asyncio.Event()
        loops.append((asyncio.get_running_loop(), event))
        while True:
            await event.wait()

    worker = Worker(lambda: module.run(main()))
    wait_until(lambda: loops, "it runs")
    settled(worker, *EPOLL)
    handle = interrupt(worker)
    assert_idle(worker)
    assert handle.state == "pending"
    assert "epoll" in handle.explain()
    loop, event = loops[0]
    loop.call_soon_threadsafe(event.set)
    assert_raised(worker, handle)


def test_redis_asyncio(redis_socket: str, quiet: None) -> None:
    module = need_module("redis.asyncio")

    async def main() -> None:
        client = module.Redis(unix_socket_path=redis_socket, socket_timeout=None)
        try:
            await client.blpop("queue")
        finally:
            await client.aclose()

    interrupted(lambda: asyncio.run(main()), *EPOLL)


# ---- processes -------------------------------------------------------------------------------------------------------------------


def test_pool_of_processes(quiet: None) -> None:
    """Waiting for a pool's answer, in the two ways there are; the pool goes on."""
    with context.Pool(1) as pool:
        assert in_thread(partial(pool.apply, abs, (-1,))) == 1
        running = pool.apply_async(time.sleep, (1,))
        interrupted(partial(running.get, LONG), *SEM)
        interrupted(running.wait, *SEM)
        interrupted(partial(pool.map, abs, [-1, -2]), *SEM)
        assert in_thread(partial(pool.apply, abs, (-3,))) == 3


def test_executor_of_processes(quiet: None) -> None:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        future = executor.submit(time.sleep, 1)
        interrupted(future.result, *SEM)
        assert in_thread(partial(executor.submit(abs, -4).result, GUARD)) == 4


def test_worker_of_a_pool_is_interrupted_in_its_own_process(quiet: None) -> None:
    """A process of its own has threads of its own: they are interrupted there."""
    body = """
import multiprocessing, threading, time
from interruptible_threading import ThreadInterrupted, _core, install_patches, interrupt

def job(seconds):
    install_patches()
    caught = []
    def run():
        try:
            time.sleep(seconds)
        except ThreadInterrupted:
            caught.append(True)
    thread = threading.Thread(target=run)
    thread.start()
    while not (_core.park_info(thread.ident) or {}).get("parked"):
        time.sleep(0.001)
    interrupt(thread)
    thread.join()
    return caught

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(job, [3000.0, 3000.0]))
"""
    assert run_script(body) == "[[True], [True]]\n"


def test_queue_and_process(quiet: None) -> None:
    """A process that is waited for, and a queue that it fills: both can be waited for again."""
    queue: Any = context.SimpleQueue()
    process = context.Process(target=time.sleep, args=(LONG,))
    process.start()
    try:
        interrupted(queue.get, *READ)
        interrupted(process.join)
        assert process.is_alive()
    finally:
        process.kill()
    in_thread(process.join)
    queue.put("item")
    with closing(queue):
        assert in_thread(queue.get) == "item"


def test_idle_connections_do_not_mind(quiet: None) -> None:
    """A server thread of the program's own, between two clients, ends with the interrupt and nothing is left open."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        served = threading.Event()

        def serve() -> None:
            while True:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.sendall(b"hello")
                served.set()

        worker = Worker(serve)
        with socket.create_connection(listener.getsockname()) as client:
            assert client.recv(5) == b"hello"
        assert served.wait(GUARD)
        settled(worker, "accept", "accept4")
        assert_raised(worker, interrupt(worker))
