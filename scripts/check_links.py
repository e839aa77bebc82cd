#!/usr/bin/env python3
"""Check that every link from one of the project's Markdown files to another file, or to a heading, leads somewhere, and that
every test exists that docs/hazards.md names.

The last column of its tables: `file` test, test; `file` test. Files are looked for in tests/, and may have a wildcard: then
each has these tests. A file of tests without one, and a row without a file that does not begin with "none", are mistakes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
TESTS = ROOT / "tests"
#: `c/test_fork.c` while_interrupting, slot_reused
NAMED = re.compile(r"`([\w/*]+\.(?:c|py|txt))`([^`;|]*)")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names under which a page's headings can be linked to."""
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        unique, number = name, 0
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.add(unique)
    return found


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def broken(page: Path) -> list[str]:
    problems = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            problems.append(f"{page.relative_to(ROOT)}: {link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(prose(target)):
            problems.append(f"{page.relative_to(ROOT)}: {link}: there is no such heading")
    return problems


def has_test(source: str, name: str) -> bool:
    python, c = rf"^(async )?def (?=test_){name}\(", rf"^static void {name}\(void \*\*"
    return re.search(rf"{python}|{c}", source, re.MULTILINE) is not None


def lacking(cell: str) -> list[str]:
    """What is wrong with the last cell of a row."""
    problems = []
    named = NAMED.findall(cell)
    if not named and not re.match(r"none\b|as \d+$", cell):
        problems.append(f"no test is named: {cell}")
    for pattern, names in named:
        files = sorted(path for path in TESTS.glob(pattern) if path.is_file())
        tests = [name.strip() for name in names.split(",") if name.strip()]
        if not files:
            problems.append(f"tests/{pattern}: there is no such file")
        if not tests and Path(pattern).name.startswith("test_"):
            problems.append(f"tests/{pattern}: which test?")
        for file in files:
            source = file.read_text(encoding="utf-8")
            problems += [f"{file.relative_to(ROOT)}: there is no test {name!r}" for name in tests if not has_test(source, name)]
    return problems


def check_hazards(page: str) -> list[str]:
    """The tests that the tables of this text name."""
    rows = [line for line in page.splitlines() if line.startswith("|") and not re.match(r"\|[-| ]+\|$", line)]
    cells = [line.rstrip("| ").rpartition(" | ")[2].strip() for line in rows]
    problems = [problem for cell in cells if cell != "test" for problem in lacking(cell)]
    return [f"docs/hazards.md: {problem}" for problem in problems] if cells else ["docs/hazards.md: there is no table"]


def main() -> int:
    pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    problems = [problem for page in pages for problem in broken(page)]
    problems += check_hazards((ROOT / "docs" / "hazards.md").read_text(encoding="utf-8"))
    print(*problems, sep="\n", end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
