"""Real pictures, raw to final, against hand-made truth: the figures that the project promises.

The embryo time-lapse is EmbryoNet's (10 embryos in their chorions, 18 frames), the wells are KimmelNET's (one embryo
each, 38 pictures).
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment

from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.contracts.detections import DetectionDocument
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.resources.executors import make_executor
from tests.support.experiments import STEPS, ChainRun, open_data_root, read_artifacts, run_experiment
from tests.support.slurm_cluster import start_cluster

EMBRYONET = "20210930_embryonet"
SIDES = ["x_min_px", "y_min_px", "x_max_px", "y_max_px"]


@pytest.fixture(scope="module")
def assembled(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_root = tmp_path_factory.mktemp("real") / "root"
    script = shared / "experiments" / "assemble.py"
    subprocess.run([sys.executable, str(script), str(data_root)], check=True, capture_output=True)
    return data_root


@pytest.fixture(scope="module")
def embryonet(assembled: Path) -> tuple[Workspace, ChainRun]:
    workspace = open_data_root(assembled)
    return workspace, run_experiment(workspace, EMBRYONET)


@pytest.fixture(scope="module")
def truth(assembled: Path) -> pd.DataFrame:
    return pd.read_csv(assembled.parent / "truth" / f"{EMBRYONET}_boxes.csv")


def choose_place(where: str, *, shared: Path, data_root: Path) -> Executor:
    """A place by its name, or the cluster by the name of a transport."""
    make = partial(make_executor, pipeline=PIPELINE, data_root=data_root)
    if where == "subprocess":
        return make(where)
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    return make("slurm", slurm=cluster.settings(where))


def read_detections(workspace: Workspace, experiment: str) -> pd.DataFrame:
    """Filtered boxes in pixels: one row per detection with its frame number."""
    path = workspace.output("organized_frames", experiment=experiment)
    images = parse_document(OrganizedFrames, path.read_bytes(), where="frames").images
    path = workspace.output("gdino_detections", experiment=experiment)
    document = parse_document(DetectionDocument, path.read_bytes(), where="detections")
    filtered = document.high_quality_annotations[experiment].filtered
    rows = []
    for image_id, entry in images.items():
        size = np.array([entry.width_px, entry.height_px] * 2)
        rows += [
            [entry.well, entry.time_int, *(np.array(detection.box_xyxy) * size)]
            for detection in filtered.get(image_id, ())
        ]
    return pd.DataFrame(rows, columns=["well", "time_int", *SIDES])


def box_overlaps(found: pd.DataFrame, true: pd.DataFrame) -> np.ndarray:
    """Intersection over union of every found box with every true one."""
    a, b = found[SIDES].to_numpy(float)[:, None], true[SIDES].to_numpy(float)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared_area = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(c[..., 2:] - c[..., :2], axis=-1) for c in (a, b)]
    return np.asarray(shared_area / (areas[0] + areas[1] - shared_area))


def test_every_embryo_is_detected_tightly_and_nothing_else(
    embryonet: tuple[Workspace, ChainRun], truth: pd.DataFrame
) -> None:
    detections = read_detections(embryonet[0], EMBRYONET)
    overlaps, false_boxes = [], 0
    for time_int, true in truth.groupby("time_int"):
        found = detections[detections["time_int"] == time_int]
        iou = box_overlaps(found, true)
        rows, columns = linear_sum_assignment(-iou)
        matched = iou[rows, columns]
        overlaps += list(matched[matched >= 0.5])
        false_boxes += len(found) - int((matched >= 0.5).sum())
    figures = f"{len(overlaps)} of {len(truth)} embryos, {false_boxes} false boxes, mean IoU {np.mean(overlaps):.4f}"
    assert (len(truth), len(overlaps), false_boxes) == (180, 180, 0), figures
    assert np.mean(overlaps) >= 0.90, figures


def test_no_identity_is_switched(embryonet: tuple[Workspace, ChainRun], truth: pd.DataFrame) -> None:
    workspace, _ = embryonet
    table = pd.read_csv(workspace.output("sam2_metadata", experiment=EMBRYONET))
    table["x"] = (table["bbox_x_min"] + table["bbox_x_max"]) / 2 * table["width_px"]
    table["y"] = (table["bbox_y_min"] + table["bbox_y_max"]) / 2 * table["height_px"]
    identity: dict[str, int] = {}
    switches = []
    for time_int, true in truth.groupby("time_int"):
        found = table[table["time_int"] == time_int]
        centres = np.column_stack(
            [(true["x_min_px"] + true["x_max_px"]) / 2, (true["y_min_px"] + true["y_max_px"]) / 2]
        )
        distance = np.hypot(*(found[["x", "y"]].to_numpy(float)[:, None] - centres[None]).T).T
        for row, column in zip(*linear_sum_assignment(distance), strict=True):
            embryo, true_id = found["embryo_id"].iloc[row], int(true["truth_id"].iloc[column])
            if identity.setdefault(embryo, true_id) != true_id:
                switches.append(f"frame {time_int}: {embryo} is {true_id}, was {identity[embryo]}")
                identity[embryo] = true_id
    assert switches == []
    assert len(set(identity.values())) == 10


def test_final_table_has_a_row_with_latents_per_embryo_and_frame(embryonet: tuple[Workspace, ChainRun]) -> None:
    workspace, run = embryonet
    table = pd.read_csv(workspace.output("embryo_latents_final", experiment=EMBRYONET), dtype={"experiment_id": str})
    assert len(table) == 180
    assert table["snip_id"].is_unique
    assert set(table["experiment_id"]) == {EMBRYONET}
    assert table.filter(like="z_mu_").notna().all(axis=None)
    assert {record.status for step, record in run.records.items() if step != "qc_masks"} == {"ok"}


def test_the_embryo_that_dies_is_the_one_found_dying(
    embryonet: tuple[Workspace, ChainRun], truth: pd.DataFrame
) -> None:
    workspace, _ = embryonet
    table = pd.read_csv(workspace.output("qc_staged", experiment=EMBRYONET))
    dead = truth[truth["dead"].astype(str).str.lower().isin(["1", "true"])]
    dying = table[table["dead_inflection_time_int"].notna()]
    assert dead["truth_id"].nunique() == 1
    assert dying["embryo_id"].nunique() == 1
    first_dead = dead["time_int"].min()
    found = table[table["dead_flag"].fillna(False).astype(bool)]["time_int"].min()
    assert abs(found - first_dead) <= 1, f"dead from frame {found}, true from {first_dead}"


def test_one_embryo_is_found_in_nearly_every_single_well(assembled: Path) -> None:
    workspace = open_data_root(assembled)
    experiments = sorted(path.name for path in (assembled / "raw_image_data" / "Frames").glob("*_kimmelnet_*"))
    counts: dict[str, int] = {}
    for experiment in experiments:
        run_experiment(workspace, experiment, until="gdino_detections")
        detections = read_detections(workspace, experiment)
        path = workspace.output("organized_frames", experiment=experiment)
        images = parse_document(OrganizedFrames, path.read_bytes(), where="frames").images
        for image_id, entry in images.items():
            here = (detections["well"] == entry.well) & (detections["time_int"] == entry.time_int)
            counts[image_id] = int(here.sum())
    others = {image_id: count for image_id, count in counts.items() if count != 1}
    assert len(counts) == 38
    assert len(counts) - len(others) >= 36, others


def test_single_wells_reach_the_final_table(assembled: Path) -> None:
    workspace = open_data_root(assembled)
    rows = 0
    for path in sorted((assembled / "raw_image_data" / "Frames").glob("*_kimmelnet_*")):
        run = run_experiment(workspace, path.name)
        rows += run.records["embryo_latents_final"].counts["rows"]
    assert rows >= 36, rows


@pytest.mark.slurm
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("subprocess", marks=pytest.mark.slow),
        "local",
        pytest.param("ssh", marks=pytest.mark.slow),
        pytest.param("dagster_slurm", marks=pytest.mark.slow),
    ],
)
def test_time_lapse_has_the_same_bytes_wherever_it_ran(
    embryonet: tuple[Workspace, ChainRun], shared: Path, tmp_path: Path, where: str
) -> None:
    script = shared / "experiments" / "assemble.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "root")], check=True, capture_output=True)
    elsewhere = open_data_root(tmp_path / "root")
    run = run_experiment(elsewhere, EMBRYONET, place=choose_place(where, shared=shared, data_root=elsewhere.data_root))
    assert run.computed == STEPS
    assert {record.place for record in run.records.values()} == {where if where == "subprocess" else "slurm"}
    assert read_artifacts(elsewhere, EMBRYONET) == read_artifacts(embryonet[0], EMBRYONET)
