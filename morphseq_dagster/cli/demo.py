"""stub."""

from __future__ import annotations


def demo() -> None:
    """Not written yet."""
