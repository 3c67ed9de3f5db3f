"""Layout: the only place that knows a path below the data root.

Holds where every artifact, input, record and working file lies (spec R13's paths). Holds no columns (`contracts`),
no ids (`identifiers`) and touches no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.errors import PermanentError

ArtifactKind = Literal["table", "document", "image_set"]

MICROSCOPES: Final = ("Keyence", "YX1", "Frames")
RECORD_SUFFIX: Final = ".provenance.json"
FAILURE_SUFFIX: Final = ".failure.json"
TEMPORARY_SUFFIX: Final = ".tmp"
SENTINELS: Final = ("acquisition_complete", ".acquisition_complete", ".complete")
"""Files at the top of a raw folder by which a microscope or a copying script says that nothing more will come."""
COHORT: Final = "cohort"
"""Stands for the experiment where an artifact belongs to all experiments; no experiment id can equal it."""


@dataclass(frozen=True)
class Artifact:
    """One artifact of an experiment.

    Parameters
    ----------
    name
        Logical name; equals the step and the asset that make it.
    kind
        `table` (CSV), `document` (JSON) or `image_set` (folders of pictures with a manifest).
    primary
        Template of the file that readers open first; for an image set its manifest, inside `folders[0]`.
    folders
        Templates of the folders that an image set publishes as one unit.
    """

    name: str
    kind: ArtifactKind
    primary: str
    folders: tuple[str, ...] = ()


_SAM2 = "sam2_pipeline_files"
_ARTIFACTS: Final = (
    Artifact("raw_manifest", "document", "metadata/raw_manifests/raw_manifest_{exp}.json"),
    Artifact("plate_metadata", "table", "metadata/plate_tables/plate_metadata_{exp}.csv"),
    Artifact(
        "ff_images",
        "image_set",
        "built_image_data/stitched_FF_images/{exp}/ff_images_manifest_{exp}.json",
        ("built_image_data/stitched_FF_images/{exp}",),
    ),
    Artifact("built_metadata", "table", "metadata/built_metadata_files/{exp}_metadata.csv"),
    Artifact(
        "organized_frames",
        "image_set",
        _SAM2 + "/raw_data_organized/{exp}/organized_frames_manifest_{exp}.json",
        (_SAM2 + "/raw_data_organized/{exp}",),
    ),
    Artifact("experiment_metadata", "document", _SAM2 + "/raw_data_organized/experiment_metadata_{exp}.json"),
    Artifact("gdino_raw", "document", _SAM2 + "/detections/raw/gdino_raw_{exp}.json"),
    Artifact("gdino_detections", "document", _SAM2 + "/detections/gdino_detections_{exp}.json"),
    Artifact("sam2_tracks", "document", _SAM2 + "/segmentation/raw/sam2_tracks_{exp}.json"),
    Artifact("sam2_segmentations", "document", _SAM2 + "/segmentation/grounded_sam_segmentations_{exp}.json"),
    Artifact(
        "exported_masks",
        "image_set",
        _SAM2 + "/exported_masks/{exp}/mask_export_manifest_{exp}.json",
        (_SAM2 + "/exported_masks/{exp}",),
    ),
    Artifact("sam2_metadata", "table", _SAM2 + "/sam2_expr_files/sam2_metadata_{exp}.csv"),
    Artifact("qc_masks", "document", "segmentation/qc_masks/qc_masks_{exp}.json"),
    Artifact("embryo_metadata", "table", "metadata/build03/per_experiment/expr_embryo_metadata_{exp}.csv"),
    Artifact(
        "snips",
        "image_set",
        "training_data/bf_embryo_snips/{exp}/snips_manifest_{exp}.json",
        (
            "training_data/bf_embryo_snips/{exp}",
            "training_data/bf_embryo_snips_uncropped/{exp}",
            "training_data/bf_embryo_masks/{exp}",
        ),
    ),
    Artifact("qc_staged", "table", "metadata/build04/per_experiment/qc_staged_{exp}.csv"),
    Artifact("latents", "table", "analysis/latent_embeddings/legacy/{variant}/morph_latents_{exp}.csv"),
    Artifact("embryo_latents_final", "table", "metadata/build06/per_experiment/embryo_latents_final_{exp}.csv"),
    Artifact("cohort_final", "table", "metadata/combined_metadata_files/embryo_metadata_final_with_latents.csv"),
)
ARTIFACTS: Final[dict[str, Artifact]] = {artifact.name: artifact for artifact in _ARTIFACTS}


@dataclass(frozen=True)
class Layout:
    """Paths below one data root.

    Parameters
    ----------
    data_root
        Absolute path of the data root.
    artifacts
        Known artifacts by name; tests and studies bring their own.
    """

    data_root: Path
    artifacts: tuple[Artifact, ...] = _ARTIFACTS

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

    # inputs that a microscope or a person supplies

    @property
    def raw_root(self) -> Path:
        """Folder of the raw acquisitions, one folder per microscope in it."""
        return self.data_root / "raw_image_data"

    def raw_folder(self, microscope: str, *, experiment: str) -> Path:
        """Raw folder of one experiment."""
        return self.raw_root / microscope / experiment

    @property
    def workbook_folders(self) -> tuple[Path, Path]:
        """Folders searched for the plate workbook, in this order."""
        return self.data_root / "metadata" / "well_metadata", self.data_root / "metadata" / "plate_metadata"

    def curation(self, experiment: str) -> Path:
        """Overrides by hand for one experiment."""
        return self.data_root / "metadata" / "curation" / f"{experiment}_overrides.csv"

    @property
    def perturbation_key(self) -> Path:
        """Perturbation names of the lab."""
        return self.data_root / "metadata" / "perturbation_name_key.csv"

    @property
    def stage_reference(self) -> Path:
        """Embryo area against stage."""
        return self.data_root / "metadata" / "stage_ref_df.csv"

    @property
    def area_reference(self) -> Path:
        """Percentiles of embryo area against stage."""
        return self.data_root / "metadata" / "sa_reference_curves.csv"

    def recipes(self, experiment: str) -> tuple[Path, Path]:
        """Recipe of the lab and of one experiment."""
        folder = self.data_root / "recipes"
        return folder / "default.toml", folder / f"{experiment}.toml"

    def truth(self, experiment: str) -> Path:
        """Truth of a synthetic experiment; no step reads it."""
        return self.data_root / "truth" / experiment

    # working files

    @property
    def private(self) -> Path:
        """Folder of working files that no reader of the science needs."""
        return self.data_root / ".morphseq"

    def claim(self, step: str, *, experiment: str) -> Path:
        """Exclusive claim of a step at work."""
        return self.private / "claims" / f"{experiment}.{step}.json"

    def journal(self, step: str, *, experiment: str) -> Path:
        """Pending publication, rolled forward after a crash."""
        return self.private / "pending" / f"{experiment}.{step}.json"

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
        for folder in (self.private / "claims", self.private / "pending", self.data_root / "recipes"):
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
