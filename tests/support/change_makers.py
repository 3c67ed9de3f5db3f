"""How each change of the table in `changes.py` is made on a small experiment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import openpyxl

from morphseq_dagster.adopt.importer import Import
from morphseq_dagster.demo.plan import WellPlan
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.reconcile_actions import discard, keep
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.records import encode, read_record
from morphseq_dagster.morphseq.paths import area_reference, curation, perturbation_key, raw_folder, stage_reference
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.morphseq.steps import gdino_detections
from tests.support.change_scene import EXPERIMENT, Scene, own, run_step
from tests.support.experiments import (
    FRAMES_WELLS,
    edit_workbook,
    make_small_frames,
    workbook_path,
)

OTHER = "20250530_other"
RENAMED = "20250529_renamed"
WELLS: tuple[WellPlan, ...] = FRAMES_WELLS[:2]
DEAD_PROCESS = 2**22 + 1  # above the largest number that Linux gives


def bring_pictures(scene: Scene, *, wells: tuple[WellPlan, ...]) -> None:
    """Replace the raw folder by one of these wells; wells in both have the same pictures."""
    elsewhere = scene.root.parent / "elsewhere" / "root"
    make_small_frames(elsewhere, wells=wells, times=2)
    shutil.rmtree(scene.raw)
    Scene(elsewhere).raw.rename(scene.raw)
    shutil.rmtree(elsewhere.parent)


MAKERS: dict[str, Callable[[Scene], None]] = {}


def makes(name: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register how a change of the table is made."""

    def register(make: Callable[[Scene], None]) -> Callable[[Scene], None]:
        MAKERS[name] = make
        return make

    return register


@makes("nothing")
def _(scene: Scene) -> None:
    pass


@makes("raw_touched")
def _(scene: Scene) -> None:
    os.utime(scene.picture())


@makes("raw_rewritten")
def _(scene: Scene) -> None:
    path = scene.picture()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@makes("raw_pixel")
def _(scene: Scene) -> None:
    path = scene.picture()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    pixels[10, 10] ^= 1
    cv2.imwrite(str(path), pixels)


@makes("raw_block")
def _(scene: Scene) -> None:
    path = scene.picture()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    pixels[120:140, 120:140] = pixels[120:140, 120:140] // 2
    cv2.imwrite(str(path), pixels)


@makes("workbook_touched")
def _(scene: Scene) -> None:
    os.utime(own(workbook_path(scene.root, EXPERIMENT)))


@makes("workbook_saved")
def _(scene: Scene) -> None:
    path = own(workbook_path(scene.root, EXPERIMENT))
    book = openpyxl.load_workbook(path)
    book.properties.title = "saved again"
    book.save(path)


SHEETS: dict[str, str | float] = {
    "medium": "E2",
    "genotype": "other",
    "chem_perturbation": "DMSO",
    "start_age_hpf": 21,
    "embryos_per_well": 2,
    "temperature": 27.0,
    "pair": 2,
}


def _edit_sheet(scene: Scene, *, sheet: str) -> None:
    edit_workbook(own(workbook_path(scene.root, EXPERIMENT)), sheet=sheet, well="A01", value=SHEETS[sheet])


for _sheet in SHEETS:
    MAKERS[f"sheet_{_sheet}"] = partial(_edit_sheet, sheet=_sheet)


@makes("sheet_unused_well")
def _(scene: Scene) -> None:
    edit_workbook(own(workbook_path(scene.root, EXPERIMENT)), sheet="medium", well="H12", value="E2")


@makes("threshold")
def _(scene: Scene) -> None:
    scene.write_recipe("[gdino_detections]\nconfidence_threshold = 0.46\n")


@makes("lab_recipe_overridden")
def _(scene: Scene) -> None:
    scene.write_recipe("[gdino_detections]\nconfidence_threshold = 0.45\n")
    scene.write_recipe("[gdino_detections]\nconfidence_threshold = 0.9\n", name="default")


@makes("detector")
def _(scene: Scene) -> None:
    scene.write_recipe("[gdino_raw.classical]\nrim_mad = 10.5\n")


@makes("detector_not_chosen")
def _(scene: Scene) -> None:
    scene.write_recipe('[gdino_raw]\nprompt = "fish"\n[gdino_raw.groundingdino]\nbox_threshold = 0.3\n')


@makes("snip_quality")
def _(scene: Scene) -> None:
    scene.write_recipe("[snips]\njpeg_quality = 80\n")


@makes("final_rows")
def _(scene: Scene) -> None:
    scene.write_recipe('[embryo_latents_final]\nrows = "usable"\n')


@makes("recipe_reformatted")
def _(scene: Scene) -> None:
    scene.write_recipe("# the defaults, written out\n[gdino_detections]\niou_threshold   =  0.50\n\n[snips]\n")


def _use_weights(scene: Scene) -> None:
    """Have the classical detector want the weights that the pipeline names for the neural ones, and run with them."""
    (external,) = scene.pipeline.spec("gdino_raw").externals
    scene.replace_step("gdino_raw", externals=(replace(external, wanted=None),))
    scene.weights = {external.weights: scene.root.parent / "weights.pt"}
    scene.weights[external.weights].write_bytes(b"1")
    assert "gdino_raw" in scene.run()


@makes("weights")
def _(scene: Scene) -> None:
    _use_weights(scene)
    (path,) = scene.weights.values()
    path.write_bytes(b"2")


@makes("weights_touched")
def _(scene: Scene) -> None:
    _use_weights(scene)
    (path,) = scene.weights.values()
    os.utime(path)


@makes("weights_moved")
def _(scene: Scene) -> None:
    _use_weights(scene)
    ((name, path),) = scene.weights.items()
    scene.weights = {name: path.rename(path.with_name("elsewhere.pt"))}


@makes("weights_not_wanted")
def _(scene: Scene) -> None:
    path = scene.root.parent / "weights.pt"
    path.write_bytes(b"1")
    names = [e.weights for spec in scene.pipeline.steps for e in spec.externals if e.weights]
    assert names
    scene.weights = dict.fromkeys(names, path)


@makes("version")
def _(scene: Scene) -> None:
    scene.replace_step("sam2_segmentations", version=99)


@makes("comment")
def _(scene: Scene) -> None:
    source = Path(gdino_detections.__file__)
    (scene.root.parent / "commented_step.py").write_text(source.read_text() + "\n# a comment\n")
    scene.replace_step("gdino_detections", body="commented_step:run")


@makes("curation")
def _(scene: Scene) -> None:
    path = curation(scene.workspace.layout, EXPERIMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"embryo_id,column,value,reason\n{EXPERIMENT}_A01_e01,frame_flag,true,seen by eye\n")


@makes("perturbation_key")
def _(scene: Scene) -> None:
    perturbation_key(scene.workspace.layout).write_text(
        "master_perturbation,short_pert_name,phenotype,control_flag,pert_type,background\nwt_ab,wt,wt,True,none,ab\n"
    )


@makes("area_reference")
def _(scene: Scene) -> None:
    area_reference(scene.workspace.layout).write_text("stage_hpf,p5,p95\n10,100,200\n60,300,400\n")


@makes("stage_reference")
def _(scene: Scene) -> None:
    stage_reference(scene.workspace.layout).write_text("sa_um,stage_hpf\n100000,10\n900000,50\n")


@makes("output_touched")
def _(scene: Scene) -> None:
    os.utime(own(scene.output("sam2_metadata")))


@makes("output_edited")
def _(scene: Scene) -> None:
    path = own(scene.output("sam2_metadata"))
    path.write_bytes(path.read_bytes().replace(b"0.0,", b"0.1,"))


def _edit_and_keep(scene: Scene) -> None:
    path = own(scene.output("plate_metadata"))
    path.write_bytes(path.read_bytes().replace(b",E3,", b",E9,", 1))
    assert scene.pipeline is MORPHSEQ
    keep(scene.workspace, path)


@makes("output_kept")
def _(scene: Scene) -> None:
    _edit_and_keep(scene)


@makes("output_kept_then_input_changed")
def _(scene: Scene) -> None:
    _edit_and_keep(scene)
    scene.run()
    _edit_sheet(scene, sheet="medium")


@makes("output_kept_then_discarded")
def _(scene: Scene) -> None:
    _edit_and_keep(scene)
    discard(scene.workspace, scene.output("plate_metadata"))


@makes("output_deleted")
def _(scene: Scene) -> None:
    scene.output("embryo_metadata").unlink()


@makes("picture_edited")
def _(scene: Scene) -> None:
    folder = scene.workspace.layout.folders("snips", experiment=EXPERIMENT)[0]
    path = own(min(folder.glob("*.jpg")))
    path.write_bytes(path.read_bytes() + b"\0")


@makes("picture_deleted")
def _(scene: Scene) -> None:
    folder = scene.workspace.layout.folders("exported_masks", experiment=EXPERIMENT)[0]
    min(folder.rglob("*.png")).unlink()


def _prune(scene: Scene, step: str) -> None:
    path = scene.output(step)
    record = read_record(scene.workspace.layout, primary=path)
    assert record is not None
    target = own(scene.workspace.layout.record(path))
    target.write_bytes(encode(record.model_copy(update={"condition": "pruned"})))
    path.unlink()


@makes("output_pruned")
def _(scene: Scene) -> None:
    _prune(scene, "sam2_tracks")


@makes("output_pruned_and_needed")
def _(scene: Scene) -> None:
    _prune(scene, "sam2_tracks")
    scene.replace_step("sam2_segmentations", version=99)


@makes("record_lost")
def _(scene: Scene) -> None:
    path = scene.output("built_metadata")
    scene.workspace.layout.record(path).unlink()
    discard(scene.workspace, path)


@makes("record_lost_and_adopted")
def _(scene: Scene) -> None:
    scene.workspace.layout.record(scene.output("built_metadata")).unlink()
    _adopt(scene)


@makes("older_file_adopted")
def _(scene: Scene) -> None:
    path = own(scene.output("gdino_detections"))
    scene.workspace.layout.record(path).unlink()
    document = json.loads(path.read_text())
    quality = document["high_quality_annotations"][EXPERIMENT]
    older = {"images": {}, "high_quality_annotations": {EXPERIMENT: {**quality, "confidence_threshold": 0.4}}}
    for image_id, image in document["images"].items():
        older["images"][image_id.replace("_ch00", "")] = {"annotations": image["annotations"]}
    path.write_text(json.dumps(older))
    _adopt(scene)


def _adopt(scene: Scene) -> None:
    workspace = scene.workspace
    outcomes = list(Import(workspace, workspace.data_root, apply=True).run([EXPERIMENT]))
    assert [o.action for o in outcomes].count("adopt") == 1, outcomes


@makes("well_added")
def _(scene: Scene) -> None:
    bring_pictures(scene, wells=FRAMES_WELLS)


@makes("experiment_added")
def _(scene: Scene) -> None:
    make_small_frames(scene.root, experiment=OTHER, wells=WELLS[:1], times=1)


@makes("experiment_added_and_run")
def _(scene: Scene) -> None:
    make_small_frames(scene.root, experiment=OTHER, wells=WELLS[:1], times=1)
    assert all(run_step(scene.workspace, spec, OTHER) for spec in scene.pipeline.steps)


@makes("experiment_removed")
def _(scene: Scene) -> None:
    MAKERS["experiment_added_and_run"](scene)
    scene.run()
    final = scene.workspace.output("embryo_latents_final", experiment=OTHER)
    final.unlink()
    scene.workspace.layout.record(final).unlink()


@makes("raw_folder_gone")
def _(scene: Scene) -> None:
    shutil.rmtree(scene.raw)
    plan = next(plan_experiments(scene.workspace, experiments=[EXPERIMENT]))
    assert [verdict.step for verdict in plan.held] == ["raw_manifest"]
    scene.left_out = ("raw_manifest",)  # asked for, it would say that its folder is gone


@makes("experiment_renamed")
def _(scene: Scene) -> None:
    new = raw_folder(scene.workspace.layout, "Frames", experiment=RENAMED)
    scene.raw.rename(new)
    workbook_path(scene.root, EXPERIMENT).rename(workbook_path(scene.root, RENAMED))
    scene.experiment = RENAMED


@makes("dead_lock")
def _(scene: Scene) -> None:
    path = scene.workspace.layout.lock("snips", experiment=EXPERIMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'{{"host": "{host_name()}", "pid": {DEAD_PROCESS}, "process_start": "1", "run_id": "r",'
        ' "taken_at": "2026-01-01T00:00:00+00:00", "token": "t"}'
    )
