"""Look-ups of host names. Those that have to wait for a name server are in lookups_inside.py and run in a network of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial
from typing import Any, Callable

import pytest
import silent_dns
from support import PATIENCE, absent, in_thread

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.mark.hang_guard(3 * PATIENCE)
def test_at_a_silent_server() -> None:
    why_not = silent_dns.trouble()
    if why_not:
        absent(why_not)
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.path.join(HERE, "lookups_inside.py")]
    command = [sys.executable, silent_dns.__file__, *inner]
    environ = {name: value for name, value in os.environ.items() if name != "ITR_TEST_ONLY"}  # which names tests of this run
    done = subprocess.run(command, cwd=os.path.dirname(HERE), env=environ, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


CALLS: dict[str, Callable[[], Any]] = {
    "localhost": partial(socket.getaddrinfo, "localhost", 80),
    "bytes": partial(socket.getaddrinfo, b"localhost", b"http"),
    "service": partial(socket.getaddrinfo, "localhost", "http", 0, socket.SOCK_STREAM),
    "canonical": partial(socket.getaddrinfo, "localhost", None, 0, 0, 0, socket.AI_CANONNAME),
    "number": partial(socket.getaddrinfo, "127.0.0.1", 80),
    "short number": partial(socket.getaddrinfo, "127.1", 80),
    "number 6": partial(socket.getaddrinfo, "::1", 80),
    "none": partial(socket.getaddrinfo, None, 80, 0, 0, 0, socket.AI_PASSIVE),
    "no service": partial(socket.getaddrinfo, "localhost", "no-such-service"),
    "no family": partial(socket.getaddrinfo, "localhost", 80, 99),
    "not a number": partial(socket.getaddrinfo, "localhost", 80, 0, 0, 0, socket.AI_NUMERICHOST),
    "too long": partial(socket.getaddrinfo, b"a" * 300, 80),
    "nothing": partial(socket.getaddrinfo, None, None),
    "by name": partial(socket.gethostbyname, "localhost"),
    "by name, broadcast": partial(socket.gethostbyname, "<broadcast>"),
    "all by name": partial(socket.gethostbyname_ex, "localhost"),
    "by address": partial(socket.gethostbyaddr, "127.0.0.1"),
    "name": partial(socket.getnameinfo, ("127.0.0.1", 80), 0),
    "name, numeric": partial(socket.getnameinfo, ("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
    "no tuple": partial(socket.getnameinfo, ["127.0.0.1", 80], 0),
}


def result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), error.args


@pytest.mark.parametrize("name", CALLS)
def test_same_result(name: str, quiet: None) -> None:
    """In a worker, whose look-up a helper makes, as in the main thread, which asks libc."""
    assert in_thread(partial(result_of, CALLS[name])) == result_of(CALLS[name])
