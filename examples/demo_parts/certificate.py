"""A certificate for the TLS examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Optional


def self_signed(folder: Path) -> Optional[tuple[Path, Path]]:
    """(certificate, key) for localhost, made in ``folder``; None where there is no openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return certificate, key
