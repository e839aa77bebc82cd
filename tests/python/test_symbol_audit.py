"""Every variant of an interposed function that libc has is covered or explained, and the page about them is up to date."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import absent

ROOT = Path(__file__).resolve().parents[2]


def load_audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tests" / "c" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library() -> Path:
    found = os.environ.get("ITR_LIBRARY")
    if found:
        return Path(found)
    package = importlib.util.find_spec("interruptible_threading")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "libinterruptible.so"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    if shutil.which("readelf") is None:
        absent("readelf is not installed")
    return load_audit()


def test_library_covers_libc(audit: ModuleType, library: Path) -> None:
    assert audit.audit(library, audit.libc_path()) == []


@pytest.mark.parametrize("name", ["__recv_chk", "open64", "preadv64v2", "__openat_2", "itr_attach"])
def test_a_missing_symbol_is_found(audit: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    everything = audit.exported
    monkeypatch.setattr(audit, "exported", lambda path: {k: v for k, v in everything(path).items() if path != library or k != name})
    assert any(problem.startswith(f"{name}:") for problem in audit.audit(library, audit.libc_path()))


def test_a_new_variant_is_found(audit: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = audit.exported
    new = {"__recvmsg_chk": {"GLIBC_2.99"}, "ppoll_time64": {"GLIBC_2.99"}, "futex_wait": {"GLIBC_2.99"}}
    monkeypatch.setattr(audit, "exported", lambda path: everything(path) if path == library else {**everything(path), **new})
    problems = audit.audit(library, audit.libc_path())
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(new)


def test_little_thread_local_storage(audit: ModuleType, library: Path) -> None:
    """glibc keeps some hundred bytes for all libraries that are loaded late, and refuses those for which there is no room."""
    headers = subprocess.run(["readelf", "-lW", library], check=True, stdout=subprocess.PIPE, text=True).stdout
    (sizes,) = ([int(field, 16) for field in line.split()[4:6]] for line in headers.splitlines() if line.split()[:1] == ["TLS"])
    assert max(sizes) <= 64


def test_page_is_up_to_date() -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "gen_docs.py"), "--check"], check=True)
