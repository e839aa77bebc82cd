"""Web clients: requests over TLS, pycurl, and gRPC, against servers that are silent or stop in the middle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from client_support import assert_idle, assert_masked, assert_raised, delivered, interrupted, settled, storm
from interruptible_threading import ThreadInterrupted, critical_section, interrupt
from servers import need_module
from support import EPOLL, GUARD, LONG, POLL, READ, RECV, SLEEP, Worker, in_thread, parked, wait_until
from web_server import ANSWER, WebServer

#: Where a TLS connection is waited for: OpenSSL reads the socket itself, Python polls it first when there is a time-out.
TLS = (*READ, *RECV, *POLL)
TIMEOUTS = pytest.mark.parametrize("timeout", [None, LONG], ids=["", "timeout"])


# ---- requests (urllib3, Python's own ssl) --------------------------------------------------------------------------------------


@pytest.fixture
def session(certificate: tuple[Path, Path]) -> Iterator[Any]:
    module = need_module("requests")
    with closing(module.Session()) as made:
        made.trust_env = False  # no proxy
        made.verify = str(certificate[1])
        yield made


def get(session: Any, url: str, timeout: float | None = None) -> bytes:
    content: bytes = session.get(url, timeout=timeout).content
    return content


@TIMEOUTS
@pytest.mark.parametrize("path", ["/silent", "/slow"])
def test_requests(session: Any, https_server: WebServer, path: str, timeout: float | None, quiet: None) -> None:
    """No answer, and one that stops in its body. The session goes on, on a connection that is in step."""
    for _ in range(3):
        assert in_thread(partial(get, session, https_server.url, timeout)) == ANSWER
        interrupted(partial(get, session, https_server.url + path, timeout), *TLS)
    assert in_thread(partial(get, session, https_server.url, timeout)) == ANSWER


def test_requests_without_tls(session: Any, http_server: WebServer, quiet: None) -> None:
    interrupted(partial(get, session, http_server.url + "/slow"), *RECV)
    assert in_thread(partial(get, session, http_server.url)) == ANSWER


@TIMEOUTS
def test_requests_streaming(session: Any, https_server: WebServer, timeout: float | None, quiet: None) -> None:
    """The answer is there, its body is read piece by piece."""
    got: list[bytes] = []

    def read() -> None:
        with session.get(https_server.url + "/slow", stream=True, timeout=timeout) as response:
            got.extend(response.iter_content(1))

    worker = Worker(read)
    wait_until(lambda: len(got) == 3, "what the server has sent is read")
    parked(worker, *TLS)
    assert_raised(worker, interrupt(worker))
    assert b"".join(got) == ANSWER[:3]
    assert in_thread(partial(get, session, https_server.url)) == ANSWER


@TIMEOUTS
def test_requests_handshake(session: Any, silent_port: int, timeout: float | None, quiet: None) -> None:
    """The server takes the connection and never begins with TLS."""
    interrupted(partial(get, session, f"https://127.0.0.1:{silent_port}", timeout), *TLS)


def test_requests_masked(session: Any, https_server: WebServer, quiet: None) -> None:
    ask = partial(get, session, https_server.url + "/late", LONG)
    assert_masked(ask, ANSWER, *TLS, let_answer=https_server.answering.set)


def test_requests_storm(session: Any, https_server: WebServer, quiet: None) -> None:
    storm(partial(get, session, https_server.url + "/slow"))
    assert in_thread(partial(get, session, https_server.url)) == ANSWER


# ---- pycurl (libcurl, which waits in C) ------------------------------------------------------------------------------------------


class Curl:
    """One handle of libcurl's, which keeps its connection from one transfer to the next."""

    def __init__(self, module: Any, **options: Any) -> None:
        self.module = module
        self.handle = module.Curl()
        self.handle.setopt(module.PROXY, "")
        self.handle.setopt(module.NOSIGNAL, 1)
        for name, value in options.items():
            self.handle.setopt(getattr(module, name), value)

    def prepare(self, url: str) -> BytesIO:
        body = BytesIO()
        self.handle.setopt(self.module.URL, url)
        self.handle.setopt(self.module.WRITEDATA, body)
        return body

    def get(self, url: str) -> bytes:
        body = self.prepare(url)
        self.handle.perform()
        return body.getvalue()


@pytest.fixture
def curl(certificate: tuple[Path, Path]) -> Iterator[Curl]:
    module = need_module("pycurl")
    made = Curl(module, CAINFO=str(certificate[1]))
    yield made
    made.handle.close()


@pytest.mark.parametrize("path", ["/silent", "/slow"])
def test_pycurl(curl: Curl, http_server: WebServer, path: str, quiet: None) -> None:
    """The broken transfer is lost, and its connection with it; the handle is used on."""
    for _ in range(3):
        assert in_thread(partial(curl.get, http_server.url)) == ANSWER
        interrupted(partial(curl.get, http_server.url + path), *POLL)
    assert in_thread(partial(curl.get, http_server.url)) == ANSWER


@pytest.mark.parametrize("path", ["/silent", "/slow"])
def test_pycurl_over_tls(curl: Curl, https_server: WebServer, path: str, quiet: None) -> None:
    interrupted(partial(curl.get, https_server.url + path), *POLL)
    assert in_thread(partial(curl.get, https_server.url)) == ANSWER


def test_pycurl_handshake(curl: Curl, silent_port: int, quiet: None) -> None:
    interrupted(partial(curl.get, f"https://127.0.0.1:{silent_port}"), *POLL)


def test_pycurl_masked(http_server: WebServer, quiet: None) -> None:
    patient = Curl(need_module("pycurl"), TIMEOUT_MS=int(LONG * 1000))
    assert_masked(partial(patient.get, http_server.url + "/late"), ANSWER, *POLL, let_answer=http_server.answering.set)
    patient.handle.close()


def test_pycurl_storm(curl: Curl, http_server: WebServer, quiet: None) -> None:
    storm(partial(curl.get, http_server.url + "/silent"))
    assert in_thread(partial(curl.get, http_server.url)) == ANSWER


def test_pycurl_multi(http_server: WebServer, quiet: None) -> None:
    """Many transfers at once, waited for in ``select``: the transfers go on after the interrupt."""
    module = need_module("pycurl")
    one = Curl(module)
    body = one.prepare(http_server.url + "/silent")
    multi = module.CurlMulti()
    multi.add_handle(one.handle)

    def drive() -> None:
        while True:
            _, left = multi.perform()
            if not left:
                return
            multi.select(LONG)

    interrupted(drive)
    http_server.closing.set()  # which ends the connection
    in_thread(drive)
    assert body.getvalue() == b""
    multi.remove_handle(one.handle)
    multi.close()
    one.handle.close()


def test_pycurl_callback(curl: Curl, http_server: WebServer, quiet: None) -> None:
    """A callback of the program's own, run by the library in the middle of a transfer, is Python code like any other."""
    curl.prepare(http_server.url)
    curl.handle.setopt(curl.module.WRITEFUNCTION, lambda data: time.sleep(LONG))
    worker = Worker(curl.handle.perform)
    parked(worker, *SLEEP)
    handle = interrupt(worker)
    outcome = worker.finish(handle)
    # The library reports what its callback raised in a way of its own: as an error of the transfer.
    assert outcome.error is not None
    assert handle.state == "delivered"
    curl.handle.setopt(curl.module.WRITEFUNCTION, BytesIO().write)
    curl.handle.perform()


# ---- gRPC (a library in the extension itself, which must never see an errno that it does not know) --------------------------------


#: It reports connections that end, from threads of its own, in the middle of another test.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@contextmanager
def grpc_channel(port: int) -> Iterator[Any]:
    with closing(need_module("grpc").insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])) as made:
        yield made


@pytest.fixture
def channel(silent_port: int) -> Iterator[Any]:
    """Its calls are never answered."""
    need_module("grpc")
    with grpc_channel(silent_port) as made:
        yield made


@contextmanager
def grpc_server(answer: Callable[[bytes, Any], bytes]) -> Iterator[Any]:
    """A channel to a server whose one method that is."""
    module = need_module("grpc")
    handler = module.method_handlers_generic_handler("service", {"method": module.unary_unary_rpc_method_handler(answer)})
    server = module.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc_channel(port) as channel:
            yield channel
    finally:
        server.stop(0).wait()


class Late(NamedTuple):
    """A call that is answered when it is let; a call that comes later waits for the next time."""

    call: Callable[[], Any]
    let_answer: Callable[[], None]


@pytest.fixture
def late() -> Iterator[Late]:
    asked: list[threading.Event] = []

    def answer(request: bytes, context: Any) -> bytes:
        go = threading.Event()
        asked.append(go)
        go.wait(GUARD)
        return b"late"

    def let_answer() -> None:
        while asked:
            asked.pop().set()

    with grpc_server(answer) as channel:
        yield Late(partial(channel.unary_unary("/service/method"), b"", timeout=LONG, wait_for_ready=True), let_answer)
        let_answer()


def test_grpc_unary(late: Late, quiet: None) -> None:
    """It cannot be broken, only left when the library returns to Python; until then it waits on, without haste."""
    for _ in range(3):
        worker = Worker(late.call)
        settled(worker, *EPOLL)
        handle = interrupt(worker)
        assert_idle(worker)
        delivered(handle, late.let_answer)
        assert_raised(worker, handle)


def test_grpc_explains_the_delay(late: Late, quiet: None) -> None:
    worker = Worker(late.call)
    settled(worker, *EPOLL)
    handle = interrupt(worker)
    # Between two waits there is nobody to be named.
    wait_until(lambda: "cygrpc" in handle.explain(), "who delays it is named")
    delivered(handle, late.let_answer)
    assert_raised(worker, handle)


def test_grpc_deadline_while_masked(channel: Any, quiet: None) -> None:
    """Its own time-out for a call, which passes while an interrupt is held back."""
    module = need_module("grpc")
    call = channel.unary_unary("/service/method")
    codes: list[Any] = []

    def ask() -> None:
        with critical_section():
            interrupt(threading.current_thread())
            try:
                call(b"", timeout=0.3, wait_for_ready=True)
            except module.RpcError as error:
                codes.append(error.code())

    assert type(Worker(ask).finish().error) is ThreadInterrupted
    assert codes == [module.StatusCode.DEADLINE_EXCEEDED]


def test_grpc_stream(channel: Any, quiet: None) -> None:
    """Iterating over a stream waits for a condition variable of Python's."""
    stream = channel.unary_stream("/service/method")
    interrupted(lambda: list(stream(b"", timeout=LONG, wait_for_ready=True)))


def test_grpc_future(channel: Any, quiet: None) -> None:
    future = channel.unary_unary("/service/method").future(b"", timeout=LONG, wait_for_ready=True)
    interrupted(future.result)
    assert not future.done()
    future.cancel()


def test_grpc_storm(late: Late, quiet: None) -> None:
    storm(late.call, rounds=5, let_answer=late.let_answer)


def test_grpc_works_afterwards() -> None:
    """A channel whose call was interrupted goes on to answer."""
    go = threading.Event()

    def answer(request: bytes, context: Any) -> bytes:
        if request == b"slow":
            go.wait(GUARD)
        return b"answer to " + request

    with grpc_server(answer) as channel:
        call = partial(channel.unary_unary("/service/method"), timeout=GUARD)
        for _ in range(2):
            worker = Worker(partial(call, b"slow"))
            settled(worker, *EPOLL)
            handle = interrupt(worker)
            go.set()  # it waits for its answer all the same
            assert_raised(worker, handle)
            go.clear()
            assert in_thread(partial(call, b"fast")) == b"answer to fast"
        assert_masked(partial(call, b"slow"), b"answer to slow", *EPOLL, let_answer=go.set)
