"""Messages of the command line: errors in four lines and without a traceback, and long lists made short."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from morphseq_dagster.errors import MorphseqError, name_some

TRACE_VARIABLE = "MORPHSEQ_TRACE"
_MOST_LINES = 12


def wants_trace(arguments: Sequence[str]) -> bool:
    """Whether the user asked for tracebacks, by option or environment."""
    return "--verbose" in arguments or os.environ.get(TRACE_VARIABLE, "") not in ("", "0")


def print_error(error: Exception) -> None:
    """Print an error to the error stream."""
    print(describe_error(error), file=sys.stderr)


def describe_error(error: Exception) -> str:
    """Describe an error in a few lines."""
    if not isinstance(error, MorphseqError):
        return f"error: {type(error).__name__}: {printable(str(error))}"
    parts = {"expected": error.expected, "found": error.found, "where": error.where, "remedy": error.remedy}
    return "\n".join(["error:", *(f"  {name + ':':<10}{printable(text)}" for name, text in parts.items())])


def printable(text: str) -> str:
    """Make text from outside safe for a terminal: control characters and undecodable bytes are shown escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_json(values: Mapping[str, Any]) -> None:
    """Print a document with its schema and version, for programs."""
    print(json.dumps(values, indent=1))


def group_lines(entries: Iterable[tuple[str, str]], *, everything: bool = False) -> Iterator[str]:
    """Make one line per reason: of many names and many reasons the first ones, and how many more there are.

    Parameters
    ----------
    entries
        Name, and the reason or state that follows it.
    everything
        Give each entry a line of its own.
    """
    entries = list(entries)
    groups: dict[str, list[str]] = {}
    for name, text in entries:
        groups.setdefault(text, []).append(name)
    if everything:
        yield from (printable(f"{name}{text}") for name, text in entries)
        return
    for text, names in list(groups.items())[:_MOST_LINES]:
        yield printable(name_some(names) + text)
    if len(groups) > _MOST_LINES:
        left = sum(len(names) for names in list(groups.values())[_MOST_LINES:])
        yield f"and {left} more (--verbose shows all)"
