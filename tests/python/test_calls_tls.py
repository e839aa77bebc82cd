"""TLS: a broken read, write, handshake or shutdown leaves a session that works on in both directions."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
from interruptible_threading import interrupt
from support import LONG, POLL, READ, RECV, SEND, Scene, Worker, asleep, assert_interrupted, broken, drain, in_thread, parked
from web_server import client_context, server_context

WAITS = (*READ, *RECV, *SEND, "write", *POLL)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Peers:
    """The two ends of a TLS session over a socket pair; the handshake is done on demand."""

    def __init__(self, scene: ExitStack, certificate: tuple[Path, Path], version: ssl.TLSVersion, timeout: float | None) -> None:
        for_server, for_client = server_context(certificate), client_context(certificate)
        for context in (for_server, for_client):
            context.minimum_version = context.maximum_version = version
        a, b = socket.socketpair()
        self.client = scene.enter_context(for_client.wrap_socket(a, do_handshake_on_connect=False))
        self.server = scene.enter_context(for_server.wrap_socket(b, server_side=True, do_handshake_on_connect=False))
        self.timeout = timeout
        self.client.settimeout(timeout)

    def shake_hands(self) -> None:
        other = Worker(self.server.do_handshake)
        self.client.do_handshake()
        other.value()

    def talk(self) -> None:
        """Both directions, with more than a record each, in threads of their own."""
        assert self.client.gettimeout() == self.timeout
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            data = bytes(range(256)) * 400
            sending = Worker(partial(sender.sendall, data))
            assert in_thread(partial(drain, receiver, len(data))) == data
            sending.value()


@pytest.fixture(params=[None, LONG], ids=["", "timeout"])
def timeout(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def peers(request: pytest.FixtureRequest, certificate: tuple[Path, Path], timeout: float | None, quiet: None) -> Iterator[Peers]:
    with Scene() as scene:
        yield Peers(scene, certificate, request.param, timeout)


READS: dict[str, Callable[[ssl.SSLSocket], Callable[[], Any]]] = {
    "recv": lambda s: partial(s.recv, 16),
    "recv_into": lambda s: partial(s.recv_into, bytearray(16)),
    "read": lambda s: partial(s.read, 16),
    "read-buffer": lambda s: partial(s.read, 16, bytearray(16)),
    "makefile.readline": lambda s: s.makefile("rb").readline,
}


@pytest.mark.parametrize("name", READS)
def test_read(peers: Peers, name: str) -> None:
    peers.shake_hands()
    broken(READS[name](peers.client), *WAITS)
    peers.talk()
    broken(READS[name](peers.client), *WAITS)
    waiting = Worker(partial(peers.client.recv, 16))
    parked(waiting, *WAITS)
    peers.server.sendall(b"answer")
    assert waiting.value() == b"answer"
    peers.talk()


def test_read_many_times(peers: Peers) -> None:
    peers.shake_hands()
    for turn in range(20):
        broken(partial(peers.client.recv, 16), *WAITS)
        peers.server.sendall(b"%03d" % turn)
        assert drain(peers.client, 3) == b"%03d" % turn
    peers.talk()


def test_read_in_the_middle_of_a_record(peers: Peers) -> None:
    """Part of a record has arrived when the read is broken: the next read goes on behind that part."""
    peers.shake_hands()
    peers.talk()
    outer = peers.client
    raw, relay = socket.socketpair()
    with raw, relay:
        # A record of the session, taken off the wire and sent on in two halves.
        peers.server.sendall(b"one record")
        wire = socket.socket(fileno=socket.dup(outer.fileno()))
        with wire:
            wire.setblocking(True)
            record = wire.recv(65536)
            back = socket.socket(fileno=socket.dup(peers.server.fileno()))
            with back:
                back.sendall(record[:7])
                broken(partial(outer.recv, 100), *WAITS)
                back.sendall(record[7:])
                assert in_thread(partial(outer.recv, 100)) == b"one record"
    peers.talk()


@pytest.mark.parametrize("method", ["send", "sendall", "write"])
def test_write(peers: Peers, method: str) -> None:
    """The record that was under way has to be sent by repeating the call; then everything goes on."""
    peers.shake_hands()
    data = bytes(range(256)) * 64  # one record
    written = 0

    def fill() -> None:
        nonlocal written
        while True:
            getattr(peers.client, method)(data)
            written += len(data)

    worker = Worker(fill)
    asleep(worker, *WAITS)  # not just parked: one that goes through would be written, and perhaps not counted
    assert_interrupted(worker, interrupt(worker))
    reading = Worker(partial(drain, peers.server, written + len(data)))
    getattr(peers.client, method)(data)
    assert reading.value() == data * (written // len(data) + 1)
    peers.talk()


def test_handshake(peers: Peers) -> None:
    broken(peers.client.do_handshake, *WAITS)
    peers.shake_hands()
    peers.talk()


def test_handshake_of_a_server(peers: Peers) -> None:
    broken(peers.server.do_handshake, *WAITS)
    peers.shake_hands()
    peers.talk()


def test_handshake_while_wrapping(certificate: tuple[Path, Path], timeout: float | None, quiet: None) -> None:
    with Scene() as scene:
        a, _ = scene.socketpair(timeout)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        broken(partial(context.wrap_socket, a), *WAITS)


def test_shutdown(peers: Peers) -> None:
    peers.shake_hands()
    peers.talk()
    broken(peers.client.unwrap, *WAITS)
    closing = Worker(peers.server.unwrap)
    with in_thread(peers.client.unwrap) as plain, closing.value() as other:
        plain.sendall(b"in the clear")
        assert drain(other, 12) == b"in the clear"


def test_other_direction_is_free(peers: Peers) -> None:
    """One thread waits in a read: the session can be written meanwhile, and after the read was broken."""
    peers.shake_hands()
    reader = Worker(partial(peers.server.recv, 16))
    parked(reader, *WAITS)
    broken(partial(peers.client.recv, 16), *WAITS)
    peers.client.sendall(b"still here")
    assert reader.value() == b"still here"
