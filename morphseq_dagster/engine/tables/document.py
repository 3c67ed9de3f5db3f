"""JSON documents as contracts: a pydantic model per document, one way to write and to read them.

The models themselves are the workflow's (MorphSeq's: `morphseq/contracts`), one module per artifact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.errors import ContractError

_Model = TypeVar("_Model", bound=BaseModel)
_LISTED = 50


class DocumentPart(BaseModel):
    """Base of document models: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def stated_version(self) -> str | None:
        """Version that the document states itself; None where its content's hash is its version.

        A document that carries times, which say nothing of the content, overrides this.
        """
        return None

    def check_content(self, *, where: str) -> None:
        """Check what no type can say of the content.

        Raises
        ------
        ContractError
            Naming everything wrong.
        """
        del where


def encode_document(document: BaseModel) -> bytes:
    """Serialise a document: one indented space, keys in the model's order, a final newline.

    Raises
    ------
    ContractError
        Naming every NaN and infinity, which JSON lacks.
    """
    value = document.model_dump(mode="json", by_alias=True)
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        places = [place for place, number in _numbers(value, "") if not math.isfinite(number)]
        name = type(document).__name__
        raise ContractError(
            expected=f"a document {name} of finite numbers",
            found=f"{len(places)} problems: " + "; ".join(f"{place} is not finite" for place in places[:_LISTED]),
            where=name,
            remedy="mend the step that wrote them: unknown is null; the earlier version was left in place",
        ) from error
    return (text + "\n").encode()


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    """Yield every float of a JSON value with its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{place}.{number}")
    elif isinstance(value, float):
        yield place, value


def parse_document(model: type[_Model], data: bytes, *, where: str) -> _Model:
    """Parse and check a JSON document.

    Raises
    ------
    ContractError
        Naming all violations at once.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ContractError(
            expected=f"a document that fulfils {model.__name__}",
            found=f"{len(problems)} problems: " + "; ".join(problems[:_LISTED]),
            where=where,
            remedy="make the document again with `morphseq materialize`, or restore it",
        ) from error
