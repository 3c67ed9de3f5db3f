"""Step context: what every step body works with - verified inputs, its parameters, staging of its one output.

Every byte that a step reads below the data root comes through here and is compared with the hash in the request, so
that provenance never lies. Work on many wells goes through `wells.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest, StepResult
from morphseq_dagster.engine.contract.workers import Workers
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_file
from morphseq_dagster.engine.storage.records import InputRead, WellState, read_record
from morphseq_dagster.engine.storage.staging import FolderStage, Staged, StagedUnit, Status, stage_bytes
from morphseq_dagster.engine.storage.weights import hash_weights
from morphseq_dagster.engine.tables.document import DocumentPart, encode_document, parse_document
from morphseq_dagster.engine.tables.image_set import FileEntry
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters

if TYPE_CHECKING:
    import pandas as pd

_Model = TypeVar("_Model", bound=BaseModel)
_Slice = TypeVar("_Slice", bound=Parameters)


@dataclass(frozen=True)
class Account:
    """What a step says of its output: outcome per well, counts, backend, warnings, a preview (PNG)."""

    status: Status = "ok"
    counts: Mapping[str, int] = field(default_factory=dict)
    wells: Mapping[str, WellState] = field(default_factory=dict)
    backend: BackendIdentity | None = None
    warnings: tuple[str, ...] = ()
    preview: bytes | None = None

    def counting(self, **counts: int) -> Account:
        """The same account with further counts before its own."""
        return replace(self, counts={**counts, **self.counts})


_PLAIN = Account()


class StepContext:
    """Inputs and output of one step run; a copy for another process has neither `progress` nor `workers`.

    Parameters
    ----------
    request
        The request that the step runs with.
    layout
        Paths of the pipeline below the request's data root.
    progress
        Called with how far the step is.
    workers
        Compute wells in other processes (`map_wells`); None where this process computes them.
    """

    def __init__(
        self,
        request: StepRequest,
        *,
        layout: Layout,
        progress: Callable[[Progress], None] = lambda _: None,
        workers: Workers | None = None,
    ) -> None:
        self.request = request
        self.layout = layout
        self.progress = progress
        self.workers = workers
        self.experiment = request.experiment
        self.primary: Path = self.layout.absolute(request.output)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StepContext, layout=self.layout), (self.request,)

    def recipe(self, model: type[_Slice]) -> _Slice:
        """The step's recipe slice, typed."""
        return model.model_validate(self.request.recipe)

    def portable(self, text: str) -> str:
        """Give a text without the place of the data root: equal input gives equal bytes wherever the data lie."""
        return text.replace(f"{self.layout.data_root}/", "")

    def input(self, name: str) -> InputRead:
        """Entry of an input in the request."""
        for entry in self.request.inputs:
            if entry.name == name:
                return entry
        raise KeyError(f"step {self.request.step} has no input {name}")

    def document(self, name: str, model: type[_Model]) -> _Model:
        """Read a JSON artifact and compare it with the request."""
        entry = self.input(name)
        data = self._read(entry)
        document = parse_document(model, data, where=entry.path)
        found = _stated_version(document) or hash_bytes(data)
        self._compare(entry, found)
        return document

    def table(self, name: str, contract: TableContract) -> pd.DataFrame:
        """Read a table artifact and compare it with the request."""
        entry = self.input(name)
        data = self._read(entry)
        self._compare(entry, hash_bytes(data))
        return contract.decode(data, where=entry.path)

    def external(self, name: str) -> Path | None:
        """Path of a registered file, verified; None when it is absent."""
        entry = self.input(name)
        if entry.sha256 is None:
            return None
        path = self.layout.absolute(entry.path)
        if not path.exists():
            raise _changed(entry.path, expected=entry.sha256, found="no file")
        if path.is_file():
            self._compare(entry, hash_file(path))
        return path

    def weights(self, name: str) -> Path | None:
        """File or folder of a model's weights, read whole and verified; None where the machine names none."""
        entry = self.input(name)
        if entry.sha256 is None:
            return None
        path = self.layout.absolute(entry.path)
        if not path.exists():
            raise _changed(entry.path, expected=entry.sha256, found="no file")
        self._compare(entry, hash_weights(path))
        return path

    def picture(self, path: str, *, entry: FileEntry) -> bytes:
        """Read a picture of an image set, verified against its manifest."""
        absolute = self.layout.absolute(path)
        try:
            data = absolute.read_bytes()
        except FileNotFoundError as error:
            raise _changed(path, expected=entry.sha256, found="no file") from error
        if hash_bytes(data) != entry.sha256:
            raise _changed(path, expected=entry.sha256, found="other content")
        return data

    def published(self, primary: Path | None = None) -> bytes | None:
        """Content of a published file, the step's own unless given; None when it is not what its record says.

        A file that was damaged outside the pipeline must not keep its step from making it again.
        """
        path = primary or self.primary
        record = read_record(self.layout, primary=path)
        if record is None or record.condition != "published":
            return None
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return data if hash_bytes(data) == record.output.sha256 else None

    def stage_table(
        self,
        frame: pd.DataFrame,
        *,
        contract: TableContract,
        account: Account = _PLAIN,
    ) -> StepResult:
        """Check a table against its contract and stage it."""
        data = contract.encode(frame, where=self.request.output)
        return self._stage_file(
            data,
            data_version=None,
            account=account.counting(rows=len(frame)),
        )

    def stage_document(
        self,
        document: BaseModel,
        *,
        account: Account = _PLAIN,
    ) -> StepResult:
        """Check a document against its model and stage it."""
        data = encode_document(document)
        parse_document(type(document), data, where=self.request.output)
        data_version = _stated_version(document)
        return self._stage_file(
            data,
            data_version=data_version,
            account=account,
        )

    def stage_images(
        self,
        files: Mapping[Path, Path],
        *,
        manifest: BaseModel,
        folders: tuple[Path, ...],
        account: Account = _PLAIN,
    ) -> StepResult:
        """Stage an image set: `files` maps final paths to finished files (checkpoints, earlier version)."""
        data = encode_document(manifest)
        parse_document(type(manifest), data, where=self.request.output)
        stage = FolderStage(self.layout, folders=folders)
        try:
            for target, source in sorted(files.items()):
                stage.add_link(target, source=source)
            units, sha256 = stage.finish(self.primary, manifest=data)
        except BaseException:
            stage.discard()
            raise
        return self._result(
            units,
            sha256=sha256,
            data_version=None,
            account=account.counting(files=len(files)),
        )

    def _stage_file(
        self,
        data: bytes,
        *,
        data_version: str | None,
        account: Account,
    ) -> StepResult:
        units, sha256 = stage_bytes(self.primary, data=data)
        return self._result(
            units,
            sha256=sha256,
            data_version=data_version,
            account=account,
        )

    def _result(
        self,
        units: tuple[StagedUnit, ...],
        *,
        sha256: str,
        data_version: str | None,
        account: Account,
    ) -> StepResult:
        failed = any(well.status == "failed" for well in account.wells.values())
        return StepResult(
            Staged(
                primary=self.primary,
                units=units,
                sha256=sha256,
                data_version=data_version or sha256,
                status="degraded" if failed and account.status == "ok" else account.status,
                counts=account.counts,
                wells=account.wells,
                backend=account.backend,
                warnings=account.warnings,
                preview=account.preview,
            )
        )

    def _read(self, entry: InputRead) -> bytes:
        try:
            return self.layout.absolute(entry.path).read_bytes()
        except FileNotFoundError as error:
            raise _changed(entry.path, expected=str(entry.sha256), found="no file") from error

    def _compare(self, entry: InputRead, found: str) -> None:
        if found != entry.sha256:
            raise _changed(entry.path, expected=str(entry.sha256), found=f"hash {found[:12]}")


def _stated_version(document: BaseModel) -> str | None:
    return document.stated_version() if isinstance(document, DocumentPart) else None


def _changed(path: str, *, expected: str, found: str) -> PermanentError:
    return PermanentError(
        expected=f"the recorded content (hash {expected[:12]})",
        found=found,
        where=path,
        remedy="the file changed outside the pipeline: materialize its step again with --force, or restore the file",
    )
