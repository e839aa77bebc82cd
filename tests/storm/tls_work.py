"""TLS connections in a storm: after any number of interrupts each goes on with the byte that is next."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

from interruptible_threading import critical_section, deliver_on_blocking
from web_server import client_context, server_context
from work import SIZE, Work


class Connection:
    """Numbers that are sent, and come back in the same order."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        ours, theirs = socket.socketpair()
        self.echo = threading.Thread(target=self._echo, args=(contexts[0], theirs), daemon=True)
        self.echo.start()
        self.sock = contexts[1].wrap_socket(ours)
        self.sent = self.got = 0

    @staticmethod
    def _echo(context: ssl.SSLContext, raw: socket.socket) -> None:
        with raw, context.wrap_socket(raw, server_side=True) as sock:
            while True:
                data = sock.recv(1000)
                if not data:
                    return
                sock.sendall(data)

    def exchange(self, endless: bool) -> None:
        with deliver_on_blocking():
            with critical_section():
                self.sock.sendall(self.sent.to_bytes(SIZE, "big"))
                self.sent += 1
            while self.got < self.sent or endless:
                number = int.from_bytes(self.sock.recv(SIZE), "big")
                assert number == self.got, f"{number} instead of {self.got}"
                self.got += 1

    def check(self) -> None:
        while self.got < self.sent:
            assert int.from_bytes(self.sock.recv(SIZE), "big") == self.got
            self.got += 1

    def close(self) -> None:
        with suppress(OSError):
            self.sock.unwrap()
        self.sock.close()
        self.echo.join()


class Tls(Work):
    """A few connections; each belongs to who has taken it."""

    weight = 2
    NUMBER = 4

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        contexts = server_context(certificate), client_context(certificate)
        self.connections = [Connection(contexts) for _ in range(self.NUMBER)]
        self.locks = [threading.Lock() for _ in self.connections]

    def do(self, dice: random.Random, endless: bool) -> None:
        at = dice.randrange(self.NUMBER)
        with deliver_on_blocking():
            if self.locks[at].acquire(blocking=False):
                try:
                    self.connections[at].exchange(endless)
                finally:
                    self.locks[at].release()

    def check(self) -> None:
        for lock, connection in zip(self.locks, self.connections):
            assert not lock.locked()
            connection.check()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
