"""Layout: where artifacts, records and working files lie below a data root.

Templates of artifacts come from the pipeline (`engine/pipeline.py`); what people and microscopes supply is the
workflow's own (`morphseq/paths.py`). No function here touches a file, but for `publication_folders`, which lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.errors import PermanentError

ArtifactKind = Literal["table", "document", "image_set"]

RECORD_SUFFIX: Final = ".provenance.json"
FAILURE_SUFFIX: Final = ".failure.json"
TEMPORARY_SUFFIX: Final = ".tmp"
COHORT: Final = "cohort"
"""Stands for the key where an artifact belongs to all partitions; no pipeline may use it as a key."""


@dataclass(frozen=True)
class Artifact:
    """One artifact of a partition: everything that is said of it, in one entry.

    Parameters
    ----------
    name
        Logical name; equals the step and the asset that make it.
    kind
        `table` (CSV), `document` (JSON) or `image_set` (folders of pictures with a manifest).
    primary
        Template of the file that readers open first; for an image set its manifest, inside `folders[0]`. `{exp}` stands
        for the partition, `{variant}` for the step's variant.
    description
        One sentence for people.
    contract
        `module:attribute` of its table contract or document model, imported when a file is checked.
    column
        Heading in `morphseq status`; empty for an artifact that has no column.
    folders
        Templates of the folders that an image set publishes as one unit.
    """

    name: str
    kind: ArtifactKind
    primary: str
    description: str
    contract: str
    column: str = ""
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Paths below one data root.

    Parameters
    ----------
    data_root
        Absolute path of the data root.
    artifacts
        The pipeline's artifacts; without them only working files have a place.
    """

    data_root: Path
    artifacts: tuple[Artifact, ...] = ()

    def artifact(self, name: str) -> Artifact:
        """Look an artifact up by its logical name."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise PermanentError(
            expected=f"one of {', '.join(a.name for a in self.artifacts)}",
            found=name,
            where="artifact name",
            remedy="correct the name",
        )

    def primary(self, name: str, *, experiment: str, variant: str = "") -> Path:
        """Path of the file that readers of an artifact open first."""
        return self._fill(self.artifact(name).primary, experiment=experiment, variant=variant)

    def folders(self, name: str, *, experiment: str, variant: str = "") -> tuple[Path, ...]:
        """Folders of an image set, the one with the manifest first."""
        templates = self.artifact(name).folders
        return tuple(self._fill(t, experiment=experiment, variant=variant) for t in templates)

    def record(self, primary: Path) -> Path:
        """Provenance record beside an artifact."""
        return primary.with_name(primary.name + RECORD_SUFFIX)

    def failure(self, primary: Path) -> Path:
        """Failure record beside an artifact."""
        return primary.with_name(primary.name + FAILURE_SUFFIX)

    def relative(self, path: Path) -> str:
        """Path relative to the data root in POSIX form, as records and documents carry it."""
        return path.relative_to(self.data_root).as_posix()

    def absolute(self, relative: str) -> Path:
        """Inverse of `relative`."""
        return self.data_root / relative

    def recipes(self, experiment: str) -> tuple[Path, Path]:
        """Recipe of all partitions and of one."""
        folder = self.data_root / "recipes"
        return folder / "default.toml", folder / f"{experiment}.toml"

    # working files

    @property
    def private(self) -> Path:
        """Folder of working files that no reader of the science needs."""
        return self.data_root / ".morphseq"

    @property
    def locks(self) -> Path:
        """Folder of the locks of steps at work."""
        return self.private / "claims"

    @property
    def journals(self) -> Path:
        """Folder of pending publications."""
        return self.private / "pending"

    def lock(self, step: str, *, experiment: str) -> Path:
        """Lock of a step at work."""
        return self.locks / f"{experiment}.{step}.json"

    def journal(self, step: str, *, experiment: str) -> Path:
        """Pending publication, rolled forward after a crash."""
        return self.journals / f"{experiment}.{step}.json"

    def checkpoints(self, step: str, *, experiment: str) -> Path:
        """Finished wells of a step that has not been published."""
        return self.private / "work" / experiment / step

    def preview(self, step: str, *, experiment: str) -> Path:
        """Small picture of an artifact, for people."""
        return self.private / "previews" / experiment / f"{step}.png"

    def retired(self, experiment: str) -> Path:
        """Mark of an experiment that has left."""
        return self.private / "retired" / f"{experiment}.json"

    def put_aside(self, relative: str) -> Path:
        """Where a file that adoption replaced at our own path is kept."""
        return self.data_root / "adopted_originals" / relative

    def split_monoliths(self, digest: str) -> Path:
        """Pieces per experiment of a file that held all experiments, by the digest of the file."""
        return self.private / "adopt" / digest

    @property
    def weights_hashes(self) -> Path:
        """Hashes of weights files as they were last read."""
        return self.private / "weights.json"

    @property
    def environments(self) -> Path:
        """Descriptions of environments by their hash, and which is the cluster's."""
        return self.private / "environments"

    @property
    def array_logs(self) -> Path:
        """Logs of array scripts that people submit by hand."""
        return self.private / "array_logs"

    def requests(self, experiment: str) -> Path:
        """Requests and results of steps that run in another process."""
        return self.private / "requests" / experiment

    @property
    def jobs(self) -> Path:
        """Folders of cluster jobs: step, experiment, key, attempt."""
        return self.private / "jobs"

    def publication_folders(self) -> Iterator[Path]:
        """Yield every folder in which a publication may have left a temporary file."""
        seen: set[Path] = set()
        for artifact in self.artifacts:
            for template in (artifact.primary, *artifact.folders):
                yield from self._parents(template, seen)
        for folder in (self.locks, self.journals, self.data_root / "recipes"):
            if folder not in seen:
                seen.add(folder)
                yield folder

    def _parents(self, template: str, seen: set[Path]) -> Iterator[Path]:
        """Existing parent folders of whatever a template can stand for."""
        parent = Path(template).parent.as_posix().replace("{exp}", "*").replace("{variant}", "*")
        found = self.data_root.glob(parent) if "*" in parent else (self.data_root / parent,)
        for folder in found:
            if folder not in seen and folder.is_dir():
                seen.add(folder)
                yield folder

    def _fill(self, template: str, *, experiment: str, variant: str) -> Path:
        if "{variant}" in template and not variant:
            raise PermanentError(
                expected="the name of the variant (the latent model)",
                found="none",
                where=template,
                remedy="give the variant",
            )
        return self.data_root / template.format(exp=experiment, variant=variant)
