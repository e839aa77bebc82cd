"""Every blocking method of a socket, and what stands on them: each parked for real and broken."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Callable

import pytest
from interruptible_threading import interruptible_accept, interruptible_recv, interruptible_send
from support import LONG, POLL, READ, RECV, SEND, Case, Cases, Scene, Worker, broken, drain, in_thread, parked, wait_until

cases = Cases()
Steps = Iterator[Callable[[], Any]]
TIMEOUTS = (None, LONG)
ACCEPT = ("accept", "accept4")


def buffer() -> bytearray:
    return bytearray(16)


# A socket with a time-out waits in poll(), one without in the call itself.
RECEIVES: dict[str, Callable[[socket.socket], Callable[[], Any]]] = {
    "recv": lambda s: partial(s.recv, 16),
    "recv_into": lambda s: partial(s.recv_into, buffer()),
    "recvfrom": lambda s: partial(s.recvfrom, 16),
    "recvfrom_into": lambda s: partial(s.recvfrom_into, buffer()),
    "recvmsg": lambda s: partial(s.recvmsg, 16, 64),
    "recvmsg_into": lambda s: partial(s.recvmsg_into, [buffer(), buffer()]),
    "recv-waitall": lambda s: partial(s.recv, 16, socket.MSG_WAITALL),
    "recv-peek": lambda s: partial(s.recv, 16, socket.MSG_PEEK),
    "class": lambda s: partial(socket.socket.recv, s, 16),
    "interruptible_recv": lambda s: partial(interruptible_recv, s, 16),
    "makefile.read": lambda s: partial(s.makefile("rb").read, 16),
    "makefile.readline": lambda s: s.makefile("rb").readline,
    "makefile.text": lambda s: s.makefile("r").readline,
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("name", RECEIVES)
def test_receiving(name: str, timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        a, b = scene.socketpair(timeout)
        yield RECEIVES[name](a)
        assert a.gettimeout() == timeout
        b.sendall(b"all of it")
        assert drain(a, 9) == b"all of it"
        other = Worker(partial(a.recv, 16))
        parked(other, *(RECV if timeout is None else POLL))
        b.sendall(b"more")
        assert other.value() == b"more"

    Case(steps, RECV if timeout is None else POLL, timeout).run()


SENDS: dict[str, Callable[[socket.socket], Callable[[], Any]]] = {
    "send": lambda s: partial(s.send, b"broken"),
    "sendall": lambda s: partial(s.sendall, b"broken"),
    "sendmsg": lambda s: partial(s.sendmsg, [b"bro", b"ken"]),
    "interruptible_send": lambda s: partial(interruptible_send, s, b"broken"),
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("name", SENDS)
def test_sending(name: str, timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        a, b, sent = scene.full_socket(timeout)
        yield SENDS[name](a)
        assert a.gettimeout() == timeout
        assert drain(b, sent) == b"x" * sent
        a.sendall(b"after")
        a.shutdown(socket.SHUT_WR)
        assert b.makefile("rb").read() == b"after"

    Case(steps, SEND if timeout is None else POLL, timeout).run()


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_sendall_in_the_middle(timeout: float | None, quiet: None) -> None:
    """What was sent is a prefix of the data, as after Ctrl-C: nothing twice, nothing out of order."""
    data = os.urandom(8 << 20)

    def steps(scene: Scene, timeout: float | None) -> Steps:
        a, b = scene.socketpair(timeout)
        yield partial(a.sendall, data)
        rest = Worker(b.makefile("rb").read)
        a.sendall(b"after")
        a.shutdown(socket.SHUT_WR)
        received = rest.value()
        assert received.endswith(b"after")
        assert 0 < len(received) < len(data)
        assert data.startswith(received[:-5])

    Case(steps, SEND if timeout is None else POLL, timeout).run()


@cases(*SEND, timed=POLL)
def sendto(scene: Scene, timeout: float | None) -> Steps:
    path = os.path.join(scene.folder(), "socket")
    server = scene.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    server.bind(path)
    client = scene.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    client.setblocking(False)
    count = 0
    with pytest.raises(BlockingIOError):
        while True:
            client.sendto(b"x", path)
            count += 1
    client.settimeout(timeout)
    yield partial(client.sendto, b"broken", path)
    assert client.gettimeout() == timeout
    assert [server.recv(16) for _ in range(count)] == [b"x"] * count
    assert client.sendto(b"after", path) == 5
    assert server.recvfrom(16)[0] == b"after"


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("name", ["accept", "_accept", "interruptible_accept"])
def test_accepting(name: str, timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        server = scene.listener()
        server.settimeout(timeout)
        yield partial(interruptible_accept, server) if name == "interruptible_accept" else getattr(server, name)
        assert server.gettimeout() == timeout
        client = scene.enter_context(socket.create_connection(server.getsockname()))
        connection, address = server.accept()
        assert address == client.getsockname()
        connection.close()

    Case(steps, ACCEPT if timeout is None else POLL, timeout).run()


def busy_listener(scene: Scene) -> socket.socket:
    """A listener whose queue is full, so that the next connect() has to wait."""
    server = scene.listener(0)
    address = server.getsockname()
    for _ in range(3):
        filler = scene.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(address)
    # What a listener has in its tcpi_unacked: the kernel may be late with connections, too.
    wait_until(lambda: struct.unpack_from("I", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)[0], "its queue is full")
    return server


def test_connecting(quiet: None) -> None:
    """All ways at once, for the kernel tries again after a second only."""
    with Scene() as scene:
        under_way: list[tuple[socket.socket, socket.socket, Worker | None]] = []
        for method in ("connect", "connect_ex"):
            for timeout in TIMEOUTS:
                server = busy_listener(scene)
                client = scene.enter_context(socket.socket())
                client.settimeout(timeout)
                broken(partial(getattr(client, method), server.getsockname()), *(("connect",) if timeout is None else POLL))
                assert client.gettimeout() == timeout
                assert client.fileno() >= 0
                # The socket goes on connecting, and is connected once the server has room; unless the call was broken before it
                # began. (Only at the client's end: a server that drops the last packet for want of room never sees it.)
                again = Worker(partial(client.connect, server.getsockname())) if client.getsockname()[1] == 0 else None
                server.setblocking(False)
                under_way.append((server, client, again))

        def connected(server: socket.socket, client: socket.socket) -> bool:
            with suppress(BlockingIOError):
                scene.enter_context(server.accept()[0])
            with suppress(OSError):
                return bool(client.getpeername() == server.getsockname())
            return False

        def all_connected() -> bool:
            found = [connected(server, client) for server, client, _ in under_way]  # all are asked, each time
            return all(found)

        wait_until(all_connected, "connected")
        for _, _, again in under_way:
            if again is not None:
                again.value()


@cases("connect", timeouts=(None,))
def connect_unix(scene: Scene, timeout: None) -> Steps:
    path = os.path.join(scene.folder(), "socket")
    server = scene.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(0)
    fillers = [scene.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(path)
    client = scene.enter_context(socket.socket(socket.AF_UNIX))
    yield partial(client.connect, path)
    again = Worker(partial(client.connect, path))
    parked(again, "connect")
    for _ in range(2):
        server.accept()[0].close()
    again.value()
    assert client.getpeername() == path


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_create_connection(timeout: float | None, quiet: None) -> None:
    def steps(scene: Scene, timeout: float | None) -> Steps:
        server = busy_listener(scene)
        yield partial(socket.create_connection, server.getsockname(), timeout)

    Case(steps, ("connect",) if timeout is None else POLL, timeout).run()


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_socket_sendfile(timeout: float | None, quiet: None) -> None:
    """socket.sendfile() waits in a selector and sends without waiting."""

    def steps(scene: Scene, timeout: float | None) -> Steps:
        a, b, sent = scene.full_socket(timeout)
        file = scene.enter_context(tempfile.TemporaryFile())
        file.write(b"y" * 1000)
        file.seek(0)
        yield partial(a.sendfile, file)
        assert drain(b, sent) == b"x" * sent
        file.seek(0)
        assert a.sendfile(file) == 1000
        assert drain(b, 1000) == b"y" * 1000

    Case(steps, (*POLL, "sendfile", "sendfile64", "epoll_wait"), timeout).run()


# Clients of the standard library, waiting for an answer that does not come.
CLIENTS: dict[str, Callable[[str, int, Any], Callable[[], Any]]] = {
    "http.client": lambda host, port, timeout: partial(http_request, host, port, timeout),
    "urlopen": lambda host, port, timeout: partial(urllib.request.urlopen, f"http://{host}:{port}/", timeout=timeout),
}


def http_request(host: str, port: int, timeout: float | None) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    finally:
        connection.close()


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("name", CLIENTS)
def test_clients(name: str, timeout: float | None, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    def steps(scene: Scene, timeout: float | None) -> Steps:
        host, port = scene.listener().getsockname()
        yield CLIENTS[name](host, port, timeout)

    Case(steps, RECV if timeout is None else POLL, timeout).run()


@cases(*RECV, timed=POLL)
def datagram(scene: Scene, timeout: float | None) -> Steps:
    sock = scene.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(timeout)
    yield partial(sock.recvfrom, 100)
    sock.sendto(b"whole", sock.getsockname())
    sock.sendto(b"", sock.getsockname())
    assert in_thread(lambda: (sock.recv(100), sock.recv(100))) == (b"whole", b"")


@cases(*READ, timeouts=(None,))
def read_of_a_socket(scene: Scene, timeout: None) -> Steps:
    a, b = scene.socketpair()
    yield partial(os.read, a.fileno(), 10)
    b.sendall(b"bytes")
    assert os.read(a.fileno(), 10) == b"bytes"


@pytest.mark.parametrize("case", cases.params)
def test_broken(case: Case, quiet: None) -> None:
    case.run()
