"""Socket calls under names that say they can be interrupted; every other socket call can be, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socket import socket

    from _typeshed import ReadableBuffer


def interruptible_recv(sock: socket, bufsize: int, flags: int = 0) -> bytes:
    """``sock.recv(bufsize, flags)``; the socket's own timeout applies."""
    return sock.recv(bufsize, flags)


def interruptible_send(sock: socket, data: ReadableBuffer, flags: int = 0) -> int:
    """``sock.send(data, flags)``; the socket's own timeout applies."""
    return sock.send(data, flags)


def interruptible_accept(sock: socket) -> tuple[socket, Any]:
    """``sock.accept()``; the socket's own timeout applies."""
    return sock.accept()
