"""Memory of sensors: what each keeps in its cursor from tick to tick."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Memory(BaseModel):
    """Content of a cursor; raise the version whenever its meaning changes."""

    model_config = ConfigDict(frozen=True)

    version: int = 1


_Memory = TypeVar("_Memory", bound=Memory)


def read_cursor(text: str | None, *, kind: type[_Memory]) -> _Memory:
    """Read a cursor; one of another version starts afresh, which costs looking and repeats requests, no computing."""
    if not text:
        return kind()
    try:
        memory = kind.model_validate_json(text)
    except ValidationError:
        return kind()
    return memory if memory.version == kind().version else kind()
