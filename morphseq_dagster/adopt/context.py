"""Context of an adoption: one experiment, what is recorded or found for it already, and what a reader hands back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.errors import PermanentError

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Converted:
    """An older artifact in our form, checked, not yet published.

    Parameters
    ----------
    data
        Content of the primary file.
    source, source_sha256, convention
        Where it comes from; the hash of a folder digests names and hashes of the files taken.
    files
        Final path to source of the pictures of an image set.
    data_version
        Version for consumers; the content's hash when empty.
    counts, warnings, backend
        As in records.
    """

    data: bytes
    source: Path
    source_sha256: str
    convention: str
    files: Mapping[Path, Path] = field(default_factory=dict)
    data_version: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    backend: BackendIdentity | None = None


@dataclass
class Context:
    """One experiment while its artifacts are brought in, in the order of the steps.

    Parameters
    ----------
    layout
        Paths of the data root.
    root
        Root of the tree that is adopted; the data root itself unless said otherwise.
    experiment
        Name.
    ready
        Content of artifacts that are recorded or converted, by step.
    """

    layout: Layout
    root: Path
    experiment: str
    ready: dict[str, bytes] = field(default_factory=dict)

    def document(self, step: str, model: type[_Model]) -> _Model | None:
        """Document of an artifact that is recorded or converted already; None when there is none."""
        data = self.ready.get(step)
        return None if data is None else parse_document(model, data, where=f"{step} of {self.experiment}")

    def need(self, step: str, model: type[_Model]) -> _Model:
        """As `document`, where it must be there.

        Raises
        ------
        PermanentError
            When it is not.
        """
        found = self.document(step, model)
        if found is None:
            raise PermanentError(
                expected=f"the artifact {step} before this one",
                found="neither a record nor an older file of it",
                where=f"experiment {self.experiment}",
                remedy=f"bring {step} in, or let the pipeline make this artifact",
            )
        return found


@contextmanager
def refusing(what: str, *, where: str) -> Iterator[None]:
    """Turn values that no model of ours takes into a refusal.

    Raises
    ------
    PermanentError
        Naming every such value.
    """
    try:
        yield
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise PermanentError(
            expected=what, found="; ".join(problems[:20]), where=where, remedy="let the pipeline make it anew"
        ) from error


def collect(problems: list[str], *, expected: str, where: str, remedy: str, listed: int = 20) -> None:
    """Raise all problems of a file at once, if there are any.

    Raises
    ------
    PermanentError
        Naming the first problems and the number of all.
    """
    if problems:
        more = f"; and {len(problems) - listed} more" if len(problems) > listed else ""
        raise PermanentError(
            expected=expected,
            found=f"{len(problems)} problems: " + "; ".join(problems[:listed]) + more,
            where=where,
            remedy=remedy,
        )
