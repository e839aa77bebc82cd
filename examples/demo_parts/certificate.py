"""A certificate for the TLS examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def self_signed(folder: Path) -> tuple[Path, Path] | None:
    """(certificate, key) for localhost, made in ``folder``; None where there is no openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    # Shell syntax reads better than one string per word; the paths are added as they are.
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extension = "-addext subjectAltName=DNS:localhost -keyout"
    subprocess.run(
        [openssl, *request.split(), *extension.split(), str(key), "-out", str(certificate)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return certificate, key
