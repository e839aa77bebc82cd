"""A web server in the test's own process that answers, says nothing, or stops in the middle of its answer."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ANSWER = b"an answer"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as a client's pool wants them
    disable_nagle_algorithm = True
    server: WebServer

    def do_GET(self) -> None:
        """``/silent`` never answers, ``/slow`` sends the head and a part of the body, all else is answered: ``/late`` when it
        is let."""
        if self.path == "/late":
            self.server.answering.wait()
        if self.path != "/silent":
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER[:3] if self.path == "/slow" else ANSWER)
        if self.path in ("/silent", "/slow"):
            self.server.closing.wait()
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # a client that finds the queue full tries again a second later

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.answering, self.closing = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}"
        if certificate is not None:
            context = server_context(certificate)
            # The handshake is made by the thread that serves the connection, at its first read.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave in the middle are what the tests are about."""

    @contextmanager
    def running(self) -> Iterator[WebServer]:
        serving = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        try:
            yield self
        finally:
            self.answering.set()
            self.closing.set()
            self.shutdown()
            serving.join()
            self.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Key and certificate of this machine, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return key, cert


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def client_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """One that trusts it, whatever the server's name is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate[1])
    return context


@pytest.fixture
def http_server() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


@pytest.fixture
def https_server(certificate: tuple[Path, Path]) -> Iterator[WebServer]:
    with WebServer(certificate).running() as server:
        yield server
