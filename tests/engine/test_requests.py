"""Requests: what a step would run with right now, from records, recipes and registered files."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.contract.recipe import Recipe
from morphseq_dagster.engine.contract.step import ExternalInput, StepSpec
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.requests import read_external
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

EXPERIMENT = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_toy(tmp_path / "root")


def key(workspace: Workspace, step: str) -> str:
    return workspace.request(workspace.pipeline.spec(step), experiment=EXPERIMENT).key


def test_request_names_the_registered_file_with_its_hash(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    request = workspace.request(workspace.pipeline.spec("letters"), experiment=EXPERIMENT, run_id="r", force=True)
    assert [(e.name, e.path, e.sha256) for e in request.inputs] == [
        ("words", f"words/{EXPERIMENT}.txt", hash_bytes(b"A01 fish\n"))
    ]
    assert request.output == f"letters/{EXPERIMENT}/letters_manifest_{EXPERIMENT}.json"
    assert request.recipe == {"upper": False, "slow_s": 0.0, "hold": "", "max_failed_share": 0.5}
    assert (request.run_id, request.force, request.data_root) == ("r", True, str(workspace.data_root))


def test_request_names_an_upstream_artifact_with_the_version_of_its_record(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    run_chain(workspace, EXPERIMENT)
    record = read_record(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT))
    assert record is not None
    (entry,) = workspace.request(workspace.pipeline.spec("lengths"), experiment=EXPERIMENT).inputs
    assert (entry.name, entry.path, entry.sha256) == ("letters", record.output.path, record.data_version)


def test_missing_required_file_names_file_and_step(workspace: Workspace) -> None:
    with pytest.raises(PermanentError) as caught:
        key(workspace, "letters")
    assert caught.value.where.endswith(f"words/{EXPERIMENT}.txt")
    assert "letters" in caught.value.expected


def test_missing_upstream_names_the_artifact_and_the_command(workspace: Workspace) -> None:
    with pytest.raises(PermanentError) as caught:
        key(workspace, "summary")
    assert "lengths" in caught.value.expected
    assert caught.value.found == "no such file"
    assert EXPERIMENT in caught.value.remedy
    path = workspace.output("lengths", experiment=EXPERIMENT)
    path.parent.mkdir(parents=True)
    path.write_text("well,letters,share\n")
    with pytest.raises(PermanentError, match="without its record") as caught:
        key(workspace, "summary")
    assert caught.value.remedy == f"morphseq adopt --experiments {EXPERIMENT}"


def locate(layout: Layout, experiment: str) -> Path | None:
    return layout.data_root / f"{experiment}.csv"


def external(**options: object) -> StepSpec:
    return StepSpec("x", 1, "m:f", (), "", "g", externals=(ExternalInput("key", locate, **options),))  # type: ignore[arg-type]


def test_absent_optional_file_carries_no_hash_and_its_arrival_changes_the_key(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    absent = read_external("key", spec=external(), layout=layout, experiment=EXPERIMENT)
    assert (absent.path, absent.sha256) == (f"{EXPERIMENT}.csv", None)
    (tmp_path / f"{EXPERIMENT}.csv").write_bytes(b"")
    assert read_external("key", spec=external(), layout=layout, experiment=EXPERIMENT).sha256 == hash_bytes(b"")


def test_file_that_cannot_be_located_carries_neither_path_nor_hash(tmp_path: Path) -> None:
    spec = StepSpec("x", 1, "m:f", (), "", "g", externals=(ExternalInput("key", lambda layout, experiment: None),))
    entry = read_external("key", spec=spec, layout=Layout(tmp_path), experiment=EXPERIMENT)
    assert (entry.path, entry.sha256) == ("", None)


def test_digest_of_the_input_s_own_is_used_for_folders(tmp_path: Path) -> None:
    (tmp_path / f"{EXPERIMENT}.csv").mkdir()
    spec = external(digest=lambda layout, path: f"digest of {layout.relative(path)}")
    entry = read_external("key", spec=spec, layout=Layout(tmp_path), experiment=EXPERIMENT)
    assert entry.sha256 == f"digest of {EXPERIMENT}.csv"


def test_recipe_of_another_step_does_not_change_the_key(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    run_chain(workspace, EXPERIMENT)
    before = {step: key(workspace, step) for step in ("letters", "lengths", "summary")}
    path = workspace.layout.recipes(EXPERIMENT)[1]
    path.parent.mkdir()
    path.write_text("[letters]\nslow_s = 0\n")
    assert {step: key(workspace, step) for step in before} == before, "a default written out changes nothing"
    path.write_text("[letters]\nupper = true\n")
    changed = {step for step in before if key(workspace, step) != before[step]}
    assert changed == {"letters"}, "downstream changes only when letters has been made again"


def test_variant_of_the_recipe_enters_the_path(tmp_path: Path) -> None:
    from morphseq_dagster.engine.layout import Artifact
    from morphseq_dagster.engine.requests import output_path
    from morphseq_dagster.parameters import Parameters

    class Model(Parameters):
        """A step with a model."""

        model: str = "dct_100"

    spec = StepSpec("latents", 1, "m:f", (), "g", recipe=Model, variant=lambda recipe: str(recipe["model"]))
    layout = Layout(tmp_path, (Artifact("latents", "table", "latents/{variant}/l_{exp}.csv", "Latents.", "m:C"),))
    recipe = Recipe({"latents": Model(model="vae_a")})
    path = output_path(spec, layout=layout, experiment=EXPERIMENT, recipe=recipe)
    assert layout.relative(path) == f"latents/vae_a/l_{EXPERIMENT}.csv"
