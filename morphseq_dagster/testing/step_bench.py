"""Step bench: give one step inputs written by hand, run its body, read what it staged.

Files stand for earlier steps. Nothing is published: no lock, no record, no commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.step import StepRequest, StepResult
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import InputRead
from morphseq_dagster.engine.tables.document import DocumentPart, encode_document, parse_document
from morphseq_dagster.engine.tables.image_set import FileEntry
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

if TYPE_CHECKING:
    import pandas as pd

_Model = TypeVar("_Model", bound=BaseModel)


class StepBench:
    """One data root with the inputs of one step.

    Parameters
    ----------
    data_root
        Empty folder to work in.
    experiment
        Experiment whose step is run.
    pipeline
        The step's.
    """

    def __init__(self, data_root: Path, *, experiment: str, pipeline: Pipeline = MORPHSEQ) -> None:
        self.pipeline = pipeline
        self.layout: Layout = pipeline.layout(data_root)
        self.experiment = experiment
        self._inputs: dict[str, InputRead] = {}

    def supply(self, name: str, document: BaseModel) -> None:
        """Give the document of an earlier step, or the manifest of its pictures."""
        data = encode_document(document)
        version = document.stated_version() if isinstance(document, DocumentPart) else None
        self._keep(name, self.layout.primary(name, experiment=self.experiment), data=data, version=version)

    def supply_table(self, name: str, frame: pd.DataFrame, *, contract: TableContract) -> None:
        """Give the table of an earlier step; it must fulfil its contract."""
        data = contract.encode(frame, where=name)
        self._keep(name, self.layout.primary(name, experiment=self.experiment), data=data)

    def supply_file(self, name: str, data: bytes, *, suffix: str = ".csv") -> None:
        """Give a registered file that a person or a lab supplies."""
        self._keep(name, self.layout.data_root / "supplied" / f"{name}{suffix}", data=data)

    def supply_picture(self, path: Path, data: bytes) -> tuple[str, FileEntry]:
        """Lay a picture below the data root; return its relative path and its entry for a manifest."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.layout.relative(path), FileEntry(sha256=hash_bytes(data), size=len(data))

    def request(self, step: str, *, recipe: dict[str, Any] | None = None) -> StepRequest:
        """Make the request of a step; registered files that were not given are absent."""
        spec = self.pipeline.spec(step)
        values = spec.recipe.model_validate(recipe or {}).model_dump(mode="json")
        externals = [e.name for e in spec.wanted_externals(values)]
        inputs = [self._inputs[name] for name in spec.inputs]
        inputs += [self._inputs.get(name, InputRead(name=name, path="", sha256=None)) for name in externals]
        variant = spec.variant(values) if spec.variant is not None else ""
        output = self.layout.primary(step, experiment=self.experiment, variant=variant)
        return StepRequest(
            experiment=self.experiment,
            step=step,
            version=spec.version,
            recipe=values,
            inputs=tuple(inputs),
            output=self.layout.relative(output),
            data_root=str(self.layout.data_root),
        )

    def run(self, step: str, *, recipe: dict[str, Any] | None = None) -> StepResult:
        """Run the body of a step on what was given."""
        return self.pipeline.spec(step).load()(StepContext(self.request(step, recipe=recipe), layout=self.layout))

    def _keep(self, name: str, path: Path, *, data: bytes, version: str | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._inputs[name] = InputRead(name=name, path=self.layout.relative(path), sha256=version or hash_bytes(data))


def read_document(result: StepResult, model: type[_Model]) -> _Model:
    """Document or manifest that a step staged."""
    staged = result.staged
    return parse_document(model, staged.staged_primary.read_bytes(), where=str(staged.primary))


def read_table(result: StepResult, contract: TableContract) -> pd.DataFrame:
    """Table that a step staged."""
    staged = result.staged
    return contract.decode(staged.staged_primary.read_bytes(), where=str(staged.primary))
