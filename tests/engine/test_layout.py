"""Paths below the data root (spec R13) and what must hold of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import COHORT, Artifact, Layout
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import refuse_experiment
from morphseq_dagster.morphseq.artifacts import ARTIFACTS

ROOT = Path("/data")
LAYOUT = Layout(ROOT, ARTIFACTS)
EXPERIMENT = "20250612_30hpf_ctrl"


def primary(name: str, variant: str = "") -> str:
    return LAYOUT.relative(LAYOUT.primary(name, experiment=EXPERIMENT, variant=variant))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gdino_detections", "sam2_pipeline_files/detections/gdino_detections_{}.json"),
        ("sam2_segmentations", "sam2_pipeline_files/segmentation/grounded_sam_segmentations_{}.json"),
        ("sam2_metadata", "sam2_pipeline_files/sam2_expr_files/sam2_metadata_{}.csv"),
        ("experiment_metadata", "sam2_pipeline_files/raw_data_organized/experiment_metadata_{}.json"),
        ("embryo_metadata", "metadata/build03/per_experiment/expr_embryo_metadata_{}.csv"),
        ("qc_staged", "metadata/build04/per_experiment/qc_staged_{}.csv"),
        ("embryo_latents_final", "metadata/build06/per_experiment/embryo_latents_final_{}.csv"),
        ("built_metadata", "metadata/built_metadata_files/{}_metadata.csv"),
    ],
)
def test_published_paths_are_those_of_the_spec(name: str, path: str) -> None:
    assert primary(name) == path.format(EXPERIMENT)


def test_latents_of_two_models_lie_beside_each_other() -> None:
    assert primary("latents", "dct_100") == f"analysis/latent_embeddings/legacy/dct_100/morph_latents_{EXPERIMENT}.csv"
    assert primary("latents", "vae_a") != primary("latents", "dct_100")
    with pytest.raises(PermanentError, match="variant"):
        primary("latents")


def test_every_artifact_has_its_own_file_and_contains_the_experiment() -> None:
    paths = [a.primary for a in ARTIFACTS]
    assert len(set(paths)) == len(paths)
    assert all("{exp}" in a.primary for a in ARTIFACTS if a.name != "cohort_final")


def test_folders_of_image_sets_are_disjoint_and_the_first_holds_the_manifest() -> None:
    folders = [folder for a in ARTIFACTS for folder in a.folders]
    for one in folders:
        assert "{exp}" in Path(one).name, "a folder of one experiment alone, or an exchange would take others along"
        assert [other for other in folders if Path(other).is_relative_to(one)] == [one]
    for artifact in ARTIFACTS:
        assert bool(artifact.folders) == (artifact.kind == "image_set")
        if artifact.folders:
            assert Path(artifact.primary).is_relative_to(artifact.folders[0])


def test_no_single_file_lies_inside_a_folder_that_is_exchanged_as_a_unit() -> None:
    units = [Path(folder) for a in ARTIFACTS for folder in a.folders]
    for artifact in ARTIFACTS:
        if artifact.kind != "image_set":
            assert not any(Path(artifact.primary).is_relative_to(unit) for unit in units)


def test_records_lie_beside_the_artifact() -> None:
    path = LAYOUT.primary("qc_staged", experiment=EXPERIMENT)
    assert LAYOUT.record(path).name == f"qc_staged_{EXPERIMENT}.csv.provenance.json"
    assert LAYOUT.failure(path).name == f"qc_staged_{EXPERIMENT}.csv.failure.json"
    assert LAYOUT.record(path).parent == LAYOUT.failure(path).parent == path.parent


def test_relative_and_absolute_are_inverse() -> None:
    path = LAYOUT.primary("snips", experiment=EXPERIMENT)
    assert LAYOUT.absolute(LAYOUT.relative(path)) == path
    with pytest.raises(ValueError, match="not in the subpath"):
        LAYOUT.relative(Path("/elsewhere/x"))


def test_unknown_artifact_names_the_known_ones() -> None:
    with pytest.raises(PermanentError, match="raw_manifest, plate_metadata"):
        LAYOUT.artifact("latent")


def test_cohort_is_no_experiment() -> None:
    assert refuse_experiment(COHORT) is not None


def test_publication_folders_cover_wherever_something_is_published(tmp_path: Path) -> None:
    layout = Layout(
        tmp_path,
        (
            Artifact("table", "table", "tables/{exp}/t_{exp}.csv", "A table.", "m:C"),
            Artifact(
                "set", "image_set", "sets/{exp}/m_{exp}.json", "A set.", "m:C", folders=("sets/{exp}", "masks/{exp}")
            ),
            Artifact("latents", "table", "models/{variant}/l_{exp}.csv", "Latents.", "m:C"),
        ),
    )
    for folder in ("tables/20240418", "sets/20240418", "masks/20240418", "models/dct", "models/vae"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in (
        layout.requests("20240418"),
        layout.preview("a", experiment="20240418").parent,
        layout.lock("a", experiment="b").parent,
    ):
        folder.mkdir(parents=True)
    found = [layout.relative(folder) for folder in layout.publication_folders() if folder.is_dir()]
    assert len(set(found)) == len(found)
    assert set(found) >= {
        "tables/20240418",
        "sets",
        "sets/20240418",
        "masks",
        "models/dct",
        "models/vae",
        ".morphseq/claims",
    }
