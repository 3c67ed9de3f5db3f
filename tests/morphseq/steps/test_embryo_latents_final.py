"""The final table (build06): every staged row with its latents, all rows or the usable ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.embryo_latents_final import CONTRACT
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT as STAGED
from morphseq_dagster.morphseq.paths import curation, raw_folder
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root, run_experiment


def read_final(workspace: Workspace) -> pd.DataFrame:
    path = workspace.output("embryo_latents_final", experiment=FRAMES_EXPERIMENT)
    return CONTRACT.decode(path.read_bytes(), where=str(path))


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


def write_recipe(workspace: Workspace, text: str) -> None:
    path = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def curate(workspace: Workspace, *lines: str) -> None:
    path = curation(workspace.layout, FRAMES_EXPERIMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["snip_id,embryo_id,column,value,reason", *lines]) + "\n")


def test_every_staged_row_stands_with_its_latents_and_their_model(workspace: Workspace) -> None:
    path = workspace.output("qc_staged", experiment=FRAMES_EXPERIMENT)
    staged = STAGED.decode(path.read_bytes(), where=str(path))
    final = read_final(workspace)
    pd.testing.assert_frame_equal(final[list(STAGED.names)], staged)
    assert list(final.columns[-100:]) == [f"z_mu_{i:02d}" for i in range(100)]
    assert final.filter(like="z_mu").notna().all(axis=None)
    assert set(final["latent_model"]) == {"dct_100"}
    (digest,) = set(final["latent_model_sha256"])
    assert len(digest) == 64


def test_latents_are_those_of_the_row_s_own_snip(workspace: Workspace) -> None:
    latents = pd.read_csv(workspace.output("latents", experiment=FRAMES_EXPERIMENT)).set_index("snip_id")
    final = read_final(workspace).set_index("snip_id")
    assert list(final["z_mu_07"].astype(float)) == list(latents.loc[final.index, "z_mu_07"])


def test_all_rows_are_kept_unless_the_recipe_asks_for_the_usable_ones(workspace: Workspace) -> None:
    curate(workspace, f"{FRAMES_EXPERIMENT}_A01_e01_t0001,,dead_flag,true,seen by eye")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    final = read_final(workspace).set_index("snip_id")
    assert len(final) == 6
    excluded = final.loc[f"{FRAMES_EXPERIMENT}_A01_e01_t0001"]
    assert not excluded["use_embryo_flag"]
    assert excluded["use_embryo_reason"].startswith("excluded: dead_flag")
    assert pd.notna(excluded["z_mu_00"])
    assert run.records["embryo_latents_final"].counts["usable"] == 5
    write_recipe(workspace, '[embryo_latents_final]\nrows = "usable"\n')
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ("embryo_latents_final",)
    assert set(read_final(workspace)["snip_id"]) == set(final.index) - {f"{FRAMES_EXPERIMENT}_A01_e01_t0001"}


def test_row_without_a_snip_has_null_latents_and_is_counted(workspace: Workspace) -> None:
    table = raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT) / "frames.csv"
    # Well A02 without a pixel size: no snip can be cut at a scale.
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line[:-3] if line.startswith("A02") else line for line in lines) + "\n")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    final = read_final(workspace).set_index("well")
    assert final.loc["A02"].filter(like="z_mu").isna().all(axis=None)
    assert final.loc["A01"].filter(like="z_mu").notna().all(axis=None)
    assert final["use_embryo_flag"].all()
    record = run.records["embryo_latents_final"]
    assert record.counts["rows_with_latents"] == 3
    assert record.warnings == ("3 of 6 rows have latents",)


def test_experiment_without_a_usable_row_is_a_table_without_rows(workspace: Workspace) -> None:
    embryos = [f"{FRAMES_EXPERIMENT}_{well}_e01" for well in ("A01", "A02")]
    curate(workspace, *(f",{embryo},dead_flag,true,seen by eye" for embryo in embryos))
    write_recipe(workspace, '[embryo_latents_final]\nrows = "usable"\n')
    run_experiment(workspace, FRAMES_EXPERIMENT)
    final = read_final(workspace)
    assert len(final) == 0
    assert "z_mu_99" in final.columns


def test_latents_without_a_record_are_refused_by_name(workspace: Workspace) -> None:
    latents = workspace.output("latents", experiment=FRAMES_EXPERIMENT)
    spec = workspace.pipeline.spec("embryo_latents_final")
    request = workspace.request(spec, experiment=FRAMES_EXPERIMENT)
    workspace.layout.record(latents).unlink()
    with pytest.raises(PermanentError, match=r"morph_latents_20250529_ctrl\.csv.*no such record"):
        spec.load()(StepContext(request, layout=workspace.layout))
