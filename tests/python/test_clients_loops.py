"""Event loops in a worker thread, asyncio's own and uvloop, and processes that work for a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from client_support import assert_idle, assert_raised, interrupted, settled, storm
from interruptible_threading import interrupt, run_interruptible
from servers import need_module
from support import EPOLL, GUARD, LONG, READ, SEM, Scene, Worker, in_thread, parked, run_script, wait_until

context = multiprocessing.get_context("spawn")

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
    connected = threading.Event()

    async def main() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", silent_port)
        try:
            connected.set()
            await asyncio.sleep(LONG)
        finally:
            writer.close()
            steps.append("cleaned up")

    for turn in range(3):
        connected.clear()
        worker = Worker(lambda: asyncio.run(main()))
        assert connected.wait(GUARD)  # else it may be connecting still, in front of the `try`
        parked(worker, *EPOLL)
        assert_raised(worker, interrupt(worker))
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


# ---- processes -------------------------------------------------------------------------------------------------------------------


def test_pool_of_processes(quiet: None) -> None:
    """Waiting for a pool's answer, in the two ways there are; the pool goes on."""
    with Scene() as scene, context.Pool(1) as pool:
        end = Path(scene.fifo())
        assert in_thread(partial(pool.apply, abs, (-1,))) == 1
        running = pool.apply_async(end.read_bytes)  # waits for somebody who writes
        try:
            interrupted(partial(running.get, LONG), *SEM)
            interrupted(running.wait, *SEM)
            interrupted(partial(pool.map, abs, [-1, -2]), *SEM)
        finally:
            end.write_bytes(b"over")
        assert in_thread(partial(pool.apply, abs, (-3,))) == 3


def test_executor_of_processes(quiet: None) -> None:
    with Scene() as scene, concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        end = Path(scene.fifo())
        future = executor.submit(end.read_bytes)
        try:
            interrupted(future.result, *SEM)
        finally:
            end.write_bytes(b"over")
        assert in_thread(partial(executor.submit(abs, -4).result, GUARD)) == 4


def test_worker_of_a_pool_is_interrupted_in_its_own_process(quiet: None) -> None:
    """A process of its own has threads of its own: they are interrupted there."""
    body = """
import multiprocessing, threading, time
from interruptible_threading import ThreadInterrupted, _core, install_patches, interrupt

def job(seconds):
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
    with multiprocessing.get_context("fork").Pool(2, install_patches) as pool:  # one of the two may do both jobs
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
