"""What the command line says of errors: expected, found, where, remedy, in four lines and without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from morphseq_dagster.errors import MorphseqError

TRACE_VARIABLE = "MORPHSEQ_TRACE"


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
