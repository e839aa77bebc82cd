"""scripts/check_links.py: the hazards page names tests that exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check_links() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "scripts" / "check_links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page(check_links: ModuleType) -> None:
    assert check_links.check_hazards((ROOT / "docs" / "hazards.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "cell",
    [
        "`python/test_check_links.py` test_the_page",
        "`python/test_check_links.py` test_the_page, test_bad_rows; `c/test_fork.c` slot_reused; the rest in CI",
        "`c/test_calls_*.c` plain",
        "none: not supported",
        "as 3",
    ],
)
def test_good_rows(cell: str, check_links: ModuleType) -> None:
    assert check_links.check_hazards(f"| # | test |\n|---|---|\n| 1 | {cell} |\n") == []


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("`python/test_check_links.py` test_the_pages", "there is no test 'test_the_pages'"),
        ("`python/test_check_links.py` test_the_page; `c/test_fork.c` slot_reuse", "there is no test 'slot_reuse'"),
        ("`python/test_check_links.py` check_links", "there is no test 'check_links'"),
        ("`python/test_check_links.py`", "which test?"),
        ("`python/test_checked_links.py` test_the_page", "there is no such file"),
        ("`c/test_calls_*.c` plain, pooled", "there is no test 'pooled'"),
        ("in CI", "no test is named"),
        ("", "no test is named"),
    ],
)
def test_bad_rows(cell: str, problem: str, check_links: ModuleType) -> None:
    problems = check_links.check_hazards(f"| # | test |\n|---|---|\n| 1 | {cell} |\n")
    assert problems and all(problem in said for said in problems), problems
    assert check_links.check_hazards("no table") != []
