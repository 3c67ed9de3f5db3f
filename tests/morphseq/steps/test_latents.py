"""Latents: one row per snip under the name of the model that made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.morphseq.contracts.latents import CONTRACT
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root, run_experiment

LAB_MODEL = "20241107_ds_sweep01_optimum"


def write_recipe(workspace: Workspace, text: str) -> None:
    path = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_default_model_writes_100_columns_under_its_own_name(finished_frames: Path) -> None:
    workspace = open_data_root(finished_frames)
    path = workspace.output("latents", experiment=FRAMES_EXPERIMENT)
    assert workspace.layout.relative(path) == (
        f"analysis/latent_embeddings/legacy/dct_100/morph_latents_{FRAMES_EXPERIMENT}.csv"
    )
    table = CONTRACT.decode(path.read_bytes(), where=str(path))
    assert list(table.columns) == [
        "experiment_date", "embryo_id", "snip_id", *(f"z_mu_{i:02d}" for i in range(100)),
    ]  # fmt: skip
    assert np.isfinite(table.filter(like="z_mu").to_numpy(float)).all()


def test_one_row_per_snip_in_order(finished_frames: Path) -> None:
    workspace = open_data_root(finished_frames)
    path = workspace.output("latents", experiment=FRAMES_EXPERIMENT)
    table = CONTRACT.decode(path.read_bytes(), where=str(path))
    assert list(table["snip_id"]) == [
        f"{FRAMES_EXPERIMENT}_{well}_e01_t{t:04d}" for well in ("A01", "A02") for t in range(3)
    ]
    assert list(table["embryo_id"]) == [snip.rpartition("_t")[0] for snip in table["snip_id"]]
    assert set(table["experiment_date"]) == {FRAMES_EXPERIMENT}


def test_record_names_the_model(finished_frames: Path) -> None:
    workspace = open_data_root(finished_frames)
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    backend = run.records["latents"].backend
    assert run.computed == ()
    assert backend is not None
    assert backend.name == "dct_100"


@pytest.mark.parametrize("model", [LAB_MODEL, "my_model"])
def test_model_that_cannot_be_loaded_is_an_error_never_another_model(frames_root: Path, model: str) -> None:
    workspace = open_data_root(frames_root)
    write_recipe(workspace, f'[latents]\nmodel = "{model}"\n')
    with pytest.raises(MorphseqError, match=model):
        run_experiment(workspace, FRAMES_EXPERIMENT)
    assert not workspace.output("latents", experiment=FRAMES_EXPERIMENT).exists()
    stays = workspace.layout.primary("latents", experiment=FRAMES_EXPERIMENT, variant="dct_100")
    assert stays.exists()


def test_name_of_a_model_cannot_lead_out_of_its_folder(frames_root: Path) -> None:
    workspace = open_data_root(frames_root)
    write_recipe(workspace, '[latents]\nmodel = "../../etc"\n')
    with pytest.raises(MorphseqError, match=r"latents\.model"):
        run_experiment(workspace, FRAMES_EXPERIMENT)


def test_equal_snips_have_equal_latents_and_others_do_not(frames_root: Path) -> None:
    workspace = open_data_root(frames_root)
    path = workspace.output("latents", experiment=FRAMES_EXPERIMENT)
    before = path.read_bytes()
    shutil.rmtree(path.parent)
    run_experiment(workspace, FRAMES_EXPERIMENT)
    assert path.read_bytes() == before
    table = CONTRACT.decode(before, where="latents").filter(like="z_mu").to_numpy(float)
    assert len(np.unique(table.round(9), axis=0)) == len(table)
