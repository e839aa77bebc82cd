"""A name server that keeps its questions, in a network of its own: ``python silent_dns.py COMMAND...`` runs a command there.

What it does depends on the name that is asked for:

    quick...     answered at once: 127.0.0.1, and ``host.example`` for an address
    once...      answered once for each name, then kept
    release...   answered, as is everything that was kept
    any other    kept

No privileges are needed where users may make namespaces; as root not even that.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

QUICK, RELEASE, SILENT = "quick.example", "release.example", "silent.example"
#: An address whose name nobody tells, and one whose name is told at once.
SILENT_ADDRESS, QUICK_ADDRESS = "192.0.2.77", "192.0.2.1"

A, PTR = 1, 12
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
#: libc gives up after 150 s, the most that can be had: no test waits for that.
FILES = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n",
    "/etc/nsswitch.conf": "hosts: files dns\nservices: files\nprotocols: files\npasswd: files\ngroup: files\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}


def unshare(*command: str) -> list[str]:
    """The command line that runs ``command`` in namespaces of its own."""
    return ["unshare", "-mn" if os.geteuid() == 0 else "-Urmn", "--propagation", "private", *command]


def trouble() -> str:
    """Why that is not possible here; empty when it is."""
    try:
        done = subprocess.run(unshare("mount", "--bind", "/etc/hosts", "/etc/hosts"), capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


def answer(question: bytes, name: bytes, kind: int) -> bytes:
    """One record for A and PTR, none for what else is asked (AAAA)."""
    data = {A: socket.inet_aton("127.0.0.1"), PTR: b"\4host\7example\0"}.get(kind)
    header = question[:2] + struct.pack("!5H", 0x8180, 1, int(data is not None), 0, 0)
    asked = question[12 : 12 + len(name) + 4]
    return header + asked + (b"" if data is None else struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data)


def serve(server: socket.socket) -> None:
    kept: list[tuple[bytes, tuple[str, int]]] = []
    seen: set[tuple[bytes, int]] = set()
    while True:
        question, peer = server.recvfrom(4096)
        end = question.index(b"\0", 12) + 1
        name, kind = question[12:end], struct.unpack_from("!H", question, end)[0]
        told = answer(question, name, kind)
        if name[1:].startswith(b"release"):
            for held, to in kept:
                server.sendto(held, to)
            kept.clear()
        elif name[1:].startswith(b"once") and (name, kind) not in seen:
            seen.add((name, kind))
        elif not name[1:].startswith(b"quick") and not name.startswith(b"\0011\0012\0010\003192"):
            kept.append((told, peer))
            continue
        server.sendto(told, peer)


def inside(command: list[str]) -> int:
    """In the namespaces: the files libc reads, the interface, the server, then the command."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        for number, (path, text) in enumerate(FILES.items()):
            copy = Path(folder, str(number))
            copy.write_text(text)
            copy.chmod(0o644)
            subprocess.run(["mount", "--bind", copy, path], check=True)
        lo = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(server, SIOCGIFFLAGS, lo))[1]
        fcntl.ioctl(server, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
        server.bind(("127.0.0.1", 53))
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        status = subprocess.run(command).returncode
        for path in FILES:
            subprocess.run(["umount", path], check=True)
    return status


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--inside"]:
        return inside(arguments[1:])
    return subprocess.run(unshare(sys.executable, __file__, "--inside", *arguments)).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
