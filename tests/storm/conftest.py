"""The storms run as the tests in ../python do, and with their helpers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "python"
sys.path.insert(0, str(TESTS))
_spec = importlib.util.spec_from_file_location("python_conftest", TESTS / "conftest.py")
assert _spec is not None and _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_common)

pytest_plugins = ["reporting"]
certificate = importlib.import_module("web_server").certificate
pytest_configure = _common.pytest_configure
pytest_report_header = _common.pytest_report_header
_hang_guard = _common._hang_guard
quiet = _common.quiet
