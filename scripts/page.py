"""Pages that are made from the code: tables in Markdown, and writing or checking a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars and line ends inside cells are made harmless."""
    lines = [_row(head), _row(["---"] * len(head))]
    return [*lines, *(_row(row) for row in rows)]


def flow(text: str) -> str:
    """Docstring as one line of running text, its code marks as they are."""
    return " ".join(text.split())


def write_or_check(name: str, *, make: Callable[[], str], command: str) -> int:
    """Write a page, or with `--check` say whether the committed one is what would be written; return the exit code."""
    parser = argparse.ArgumentParser(prog=command, description=f"Make docs/{name} from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is not up to date")
    parser.add_argument("--folder", type=Path, default=DOCS, help="folder of the page")
    options = parser.parse_args()
    path: Path = options.folder / name
    text = make()
    if not options.check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} is not what the code says; run: python {command}", file=sys.stderr)
    return 1


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(flow(cell).replace("|", r"\|") for cell in cells) + " |"
