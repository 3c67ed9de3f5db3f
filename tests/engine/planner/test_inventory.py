from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.planner.inventory import list_artifacts, locate
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

EXPERIMENT = "20250529_36hpf_ctrl"
LONGER = "20250529_36hpf_ctrl_extras"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, MORPHSEQ)


@pytest.fixture
def layout(workspace: Workspace) -> Layout:
    return workspace.layout


@pytest.mark.parametrize("name", sorted(artifact.name for artifact in MORPHSEQ.artifacts))
@pytest.mark.parametrize("experiment", [EXPERIMENT, LONGER])
def test_every_artifact_is_found_back_from_its_path(
    workspace: Workspace, layout: Layout, name: str, experiment: str
) -> None:
    wanted = COHORT if name == "cohort_final" else experiment
    primary = touch(layout.primary(name, experiment=wanted, variant="model.a"))
    (found,) = list_artifacts(workspace)
    assert (found.step, found.experiment, found.primary) == (name, wanted, primary)
    assert (found.has_record, found.has_file) == (False, True)
    assert found.variant == ("model.a" if name == "latents" else "")
    assert locate(workspace, primary) == found


def test_a_record_without_its_file_is_listed(workspace: Workspace, layout: Layout) -> None:
    primary = layout.primary("sam2_metadata", experiment=EXPERIMENT)
    touch(layout.record(primary))
    (found,) = list_artifacts(workspace)
    assert (found.has_record, found.has_file) == (True, False)
    assert locate(workspace, layout.record(primary)) == found


def test_a_picture_leads_to_its_set(workspace: Workspace, layout: Layout) -> None:
    primary = touch(layout.primary("snips", experiment=EXPERIMENT))
    picture = touch(layout.folders("snips", experiment=EXPERIMENT)[2] / "x" / "y.png")
    found = locate(workspace, picture)
    assert found is not None
    assert (found.step, found.primary) == ("snips", primary)


@pytest.mark.parametrize("path", ["raw_image_data/YX1/20240418/a.nd2", "metadata/notes.txt", "../elsewhere.csv"])
def test_files_that_are_no_artifacts_lead_nowhere(workspace: Workspace, layout: Layout, path: str) -> None:
    assert locate(workspace, layout.data_root / path) is None


def test_names_that_are_no_experiments_are_passed_over(workspace: Workspace, layout: Layout) -> None:
    touch(layout.primary("built_metadata", experiment="combined"))
    touch(layout.data_root / "metadata/built_metadata_files/20240418_A01_metadata.csv")
    assert list_artifacts(workspace) == ()


def test_a_name_selects_no_other_that_begins_like_it(workspace: Workspace, layout: Layout) -> None:
    for name in (EXPERIMENT, LONGER):
        touch(layout.primary("built_metadata", experiment=name))
    assert [e.experiment for e in list_artifacts(workspace, experiments=[EXPERIMENT])] == [EXPERIMENT]


def test_folder_and_file_must_name_the_same_experiment(workspace: Workspace, layout: Layout) -> None:
    folder = layout.folders("ff_images", experiment=EXPERIMENT)[0]
    touch(folder / f"ff_images_manifest_{LONGER}.json")
    assert list_artifacts(workspace) == ()
