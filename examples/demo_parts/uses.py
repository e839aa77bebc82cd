"""Two uses: a TLS connection that outlives the interrupts of its reader, and a limit on the whole of an HTTP request."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from certificate import self_signed
from interruptible_threading import ThreadInterrupted, interrupt
from table import coloured, heading
from with_library import wait_until_parked

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from time_limit import call_with_time_limit  # noqa: E402  it is an example of its own, one folder up


def say(who: str, what: str, good: bool = True) -> bool:
    print(f"  {coloured(who.ljust(8), 'dim')} {coloured(what, 'good' if good else 'bad')}", flush=True)
    return good


# ---- TLS ----------------------------------------------------------------------------------------------------------------


def echo_in_capitals(connection: ssl.SSLSocket) -> None:
    while data := connection.recv(100):
        connection.sendall(data.upper())


def tls_connection() -> bool:
    heading("A TLS connection goes on after its blocked read was interrupted")
    with tempfile.TemporaryDirectory() as folder:
        files = self_signed(Path(folder))
        if files is None:
            print("  left out: there is no openssl command to make a certificate with")
            return True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        trusting = ssl.create_default_context(cafile=str(files[0]))
    left, right = socket.socketpair()

    def serve() -> None:
        # When the client hangs up, TLS may have something to say to it still.
        with suppress(OSError), context.wrap_socket(left, server_side=True) as connection:
            echo_in_capitals(connection)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    good = True
    with trusting.wrap_socket(right, server_hostname="localhost") as client:
        for question in (b"first", b"second", b"third"):
            results: SimpleQueue[str] = SimpleQueue()

            def read(results: SimpleQueue[str] = results) -> None:
                try:
                    results.put(f"got {client.recv(100)!r}, and nobody had asked")
                except ThreadInterrupted as stop:
                    results.put(f"interrupted: {stop.reason}")

            reader = threading.Thread(target=read)
            reader.start()
            where = wait_until_parked(reader)
            interrupt(reader, reason=f"parked in {where}, nothing comes")
            result = results.get()
            good &= say("reader", result, result.startswith("interrupted"))
            client.sendall(question)
            answer = client.recv(100)
            good &= say("client", f"asks {question!r} on the same connection, is told {answer!r}", answer == question.upper())
    server.join()
    return good


# ---- a limit on a whole request --------------------------------------------------------------------------------------------


def drip(listener: socket.socket) -> None:
    """Answer with a byte now and then, for ever: each of them comes in time."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ThreadInterrupted):
            while True:
                connection.sendall(b".")
                time.sleep(0.05)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=1.0) as response:
        return bytes(response.read())


def whole_request() -> bool:
    heading("A limit on a whole HTTP request; urlopen's own time-out starts anew with every byte")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=drip, args=(listener,), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        started = time.monotonic()
        try:
            body = call_with_time_limit(2.0, get, url)
            return say("client", f"got {len(body)} bytes", False)
        except TimeoutError as error:
            took = time.monotonic() - started
            say("client", f"urlopen(url, timeout=1.0), in 2.0 s: after {took:.2f} s, TimeoutError: {error}")
        interrupt(server)
        server.join()
    return True


if __name__ == "__main__":
    sys.exit(0 if all([tls_connection(), whole_request()]) else 1)
