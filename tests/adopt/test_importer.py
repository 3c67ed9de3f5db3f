from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from morphseq_dagster.adopt.importer import Import, ImportOutcome, find_experiments
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.reconcile import reconcile
from morphseq_dagster.engine.planner.reconcile_actions import discard, refresh
from morphseq_dagster.engine.storage.records import encode, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    STEPS,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
)
from tests.support.older_tree import OlderForm, copy_inputs, merge_documents, write_older_tree

TOY = "20240418"
EXP, SECOND = FRAMES_EXPERIMENT, "20250529_ctrl_extras"
HEAVY = ("ff_images", "organized_frames", "gdino_raw", "sam2_tracks", "exported_masks", "sam2_metadata")
NEWER = OlderForm()
CODED = OlderForm(
    convention="coded",
    snip_letter="",
    channel_in_ids=False,
    images_as_list=True,
    rle_format="rle_base64",
    numbered_frames=True,
    flags=False,
)
OLDER = OlderForm(convention="older", snip_letter="t", channel_in_ids=False, numbered_frames=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_data_root(tmp_path_factory.mktemp("finished") / "root")
    for name in (EXP, SECOND):
        make_small_frames(workspace.data_root, experiment=name, times=2)
        run_experiment(workspace, name)
    return workspace


@pytest.fixture
def lab(tmp_path: Path) -> Workspace:
    return open_data_root(tmp_path / "lab")


def bring(
    source: Workspace, target: Workspace, form: OlderForm = NEWER, *, root: Path | None = None, name: str = EXP
) -> dict[str, Path]:
    copy_inputs(source, name, data_root=target.data_root)
    return write_older_tree(source, name, root=root or target.data_root, form=form)


def run(
    workspace: Workspace, *, apply: bool, names: tuple[str, ...] = (EXP,), **options: object
) -> list[ImportOutcome]:
    root = options.pop("root", workspace.data_root)
    campaign = Import(workspace, Path(str(root)), apply=apply, without_inputs=bool(options.get("without_inputs")))
    return list(campaign.run(names))


def actions(outcomes: list[ImportOutcome]) -> dict[str, str]:
    return {outcome.step: outcome.action for outcome in outcomes}


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


@pytest.mark.parametrize("form", [NEWER, CODED, OLDER], ids=["R13", "coded", "older"])
def test_an_older_tree_enters_without_recomputation(finished: Workspace, lab: Workspace, form: OlderForm) -> None:
    bring(finished, lab, form)
    before = snapshot(lab.data_root)
    planned = run(lab, apply=False)
    assert snapshot(lab.data_root) == before
    assert not any(outcome.done for outcome in planned)
    done = run(lab, apply=True)
    assert actions(done) == actions(planned)
    assert {step for step, action in actions(done).items() if action == "adopt"} >= set(HEAVY)
    assert "refused" not in actions(done).values()
    later = run_experiment(lab, EXP)
    # What older trees lack is made; nothing that was adopted is.
    assert set(later.computed) == set(STEPS) - set(actions(done))
    assert reconcile(lab, hash_all=True).findings == ()


@pytest.mark.parametrize("form", [NEWER, CODED, OLDER], ids=["R13", "coded", "older"])
def test_adopted_masks_and_ids_are_those_of_the_original(finished: Workspace, lab: Workspace, form: OlderForm) -> None:
    bring(finished, lab, form)
    run(lab, apply=True)

    def masks(workspace: Workspace) -> dict[str, tuple[str, float]]:
        document = json.loads(workspace.output("sam2_tracks", experiment=EXP).read_text())
        videos = document["experiments"][EXP]["videos"].values()
        images = [image for video in videos for image in video["image_ids"].values()]
        embryos = [embryo for image in images for embryo in image["embryos"].values()]
        return {e["snip_id"]: (e["segmentation"]["counts"], e["segmentation"]["area"]) for e in embryos}

    assert masks(lab) == masks(finished)
    for step in ("organized_frames", "exported_masks"):
        ours = json.loads(lab.output(step, experiment=EXP).read_text())["files"]
        assert ours == json.loads(finished.output(step, experiment=EXP).read_text())["files"]
    table = lab.output("sam2_metadata", experiment=EXP).read_bytes().splitlines()
    assert [line.split(b",")[:3] for line in table] == [
        line.split(b",")[:3] for line in finished.output("sam2_metadata", experiment=EXP).read_bytes().splitlines()
    ]


def test_records_carry_full_provenance(finished: Workspace, lab: Workspace) -> None:
    sources = bring(finished, lab)
    run(lab, apply=True)
    record = read_record(lab.layout, primary=lab.output("sam2_tracks", experiment=EXP))
    frames = read_record(lab.layout, primary=lab.output("organized_frames", experiment=EXP))
    assert record is not None
    assert frames is not None
    assert record.origin == "adopted"
    assert record.adopted_from is not None
    assert record.adopted_from.path == lab.layout.relative(sources["sam2_segmentations"])
    assert record.adopted_from.convention == "R13"
    aside = lab.layout.put_aside(record.adopted_from.path)
    import hashlib

    assert record.adopted_from.sha256 == hashlib.sha256(aside.read_bytes()).hexdigest()
    assert {entry.name: entry.sha256 for entry in record.inputs}["organized_frames"] == frames.data_version
    request = lab.request(lab.pipeline.spec("sam2_tracks"), experiment=EXP)
    assert (record.request_key, record.recipe, record.step_version) == (request.key, request.recipe, request.version)
    assert record.backend is not None
    assert (record.backend.name, record.backend.weights_sha256) == ("SAM2", None)


def test_nothing_of_the_older_tree_is_lost(finished: Workspace, lab: Workspace) -> None:
    bring(finished, lab)
    before = {p: p.read_bytes() for p in lab.data_root.rglob("*") if p.is_file()}
    run(lab, apply=True)
    after = {path.read_bytes() for path in lab.data_root.rglob("*") if path.is_file()}
    lost = [str(path) for path, data in before.items() if data not in after]
    assert lost == []
    movie = f"sam2_pipeline_files/raw_data_organized/{EXP}/vids/{EXP}_A01.mp4"
    assert lab.layout.put_aside(movie).read_bytes() == b"a movie of the older program"


def test_a_tree_elsewhere_is_copied_and_left_as_it_is(finished: Workspace, lab: Workspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    bring(finished, lab, CODED, root=elsewhere)
    before = snapshot(elsewhere)
    done = run(lab, apply=True, root=elsewhere)
    assert snapshot(elsewhere) == before
    assert {step for step, action in actions(done).items() if action == "adopt"} >= set(HEAVY)
    ours = {path.stat().st_ino for path in lab.data_root.rglob("*.jpg")}
    assert not ours & {path.stat().st_ino for path in elsewhere.rglob("*.jpg")}
    record = read_record(lab.layout, primary=lab.output("gdino_raw", experiment=EXP))
    assert record is not None
    assert record.adopted_from is not None
    assert record.adopted_from.path.startswith(str(elsewhere))


def test_adoption_resumes_where_it_was_cut_off(finished: Workspace, lab: Workspace) -> None:
    bring(finished, lab, CODED)
    campaign = Import(lab, lab.data_root, apply=True)
    for outcome in campaign.run([EXP]):
        if outcome.step == "gdino_raw":
            break
    times = snapshot(lab.layout.folders("organized_frames", experiment=EXP)[0])
    resumed = actions(run(lab, apply=True))
    assert resumed["organized_frames"] == resumed["gdino_raw"] == "recorded"
    assert resumed["sam2_tracks"] == "adopt"
    assert snapshot(lab.layout.folders("organized_frames", experiment=EXP)[0]) == times
    assert set(actions(run(lab, apply=True)).values()) == {"recorded"}


def test_files_of_all_experiments_are_split(finished: Workspace, lab: Workspace, tmp_path: Path) -> None:
    sam2 = lab.data_root / "sam2_pipeline_files"
    targets = {
        "gdino_detections": sam2 / "detections/gdino_detections.json",
        "sam2_segmentations": sam2 / "segmentation/grounded_sam_segmentations.json",
        "experiment_metadata": sam2 / "raw_data_organized/experiment_metadata.json",
    }
    written = [bring(finished, lab, name=name) for name in (EXP, SECOND)]
    for artifact, target in targets.items():
        merge_documents([paths[artifact] for paths in written], target)
        for paths in written:
            paths[artifact].unlink()
    tables = [paths["embryo_metadata"] for paths in written]
    monolith = lab.data_root / "metadata/combined_metadata_files/embryo_metadata_df01.csv"
    monolith.parent.mkdir(parents=True)
    lines = [table.read_text().splitlines(keepends=True) for table in tables]
    monolith.write_text("".join([*lines[0], *lines[1][1:]]))
    for table in tables:
        table.unlink()
    campaign = Import(lab, lab.data_root, apply=True)
    campaign.split()
    assert find_experiments(campaign, known=[]) == (EXP, SECOND)
    outcomes = list(campaign.run([EXP, SECOND]))
    for name in (EXP, SECOND):
        found = {o.step: o.detail.split(":")[0] for o in outcomes if o.experiment == name and o.action == "adopt"}
        from_monolith = {step for step, convention in found.items() if convention == "monolith"}
        # Where no mask of an experiment is flagged, nothing tells whether it was judged: the light step is made.
        assert from_monolith | {"sam2_segmentations"} == {
            "experiment_metadata", "gdino_raw", "gdino_detections", "sam2_tracks", "sam2_segmentations",
            "embryo_metadata",
        }  # fmt: skip
        later = run_experiment(lab, name)
        assert set(later.computed) == {"snips", "qc_staged", "latents", "embryo_latents_final"}
    # Steps never read the files of all experiments: without them everything stands.
    for target in (*targets.values(), monolith):
        target.unlink()
    assert run_experiment(lab, EXP).computed == ()


def test_polygons_are_refused_and_block_what_builds_on_them(finished: Workspace, lab: Workspace) -> None:
    path = bring(finished, lab)["sam2_segmentations"]
    path.write_text(path.read_text().replace('"format": "rle"', '"format": "polygon"'))
    outcomes = {outcome.step: outcome for outcome in run(lab, apply=True)}
    assert outcomes["sam2_tracks"].action == "refused"
    assert "polygon" in outcomes["sam2_tracks"].detail
    assert outcomes["exported_masks"].action == "blocked"
    assert not lab.output("sam2_tracks", experiment=EXP).exists()
    assert path.exists()


def test_a_table_without_required_columns_is_refused_with_their_names(finished: Workspace, lab: Workspace) -> None:
    path = bring(finished, lab)["embryo_metadata"]
    lines = path.read_text().splitlines()
    number = lines[0].split(",").index("mask_target")
    import pandas as pd

    pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=["mask_target", "pert_type"]).to_csv(
        path, index=False
    )
    assert number > 0
    outcome = {outcome.step: outcome for outcome in run(lab, apply=True)}["embryo_metadata"]
    assert outcome.action == "refused"
    assert "mask_target" in outcome.detail
    assert "pert_type" not in outcome.detail  # may be null


def test_a_missing_column_that_may_be_null_is_filled_and_named(finished: Workspace, lab: Workspace) -> None:
    import pandas as pd

    path = bring(finished, lab)["embryo_metadata"]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.assign(older_column="x").drop(columns=["pert_type"]).to_csv(path)
    outcome = {outcome.step: outcome for outcome in run(lab, apply=True)}["embryo_metadata"]
    assert outcome.action == "adopt"
    record = read_record(lab.layout, primary=lab.output("embryo_metadata", experiment=EXP))
    assert record is not None
    assert record.warnings == outcome.warnings
    assert any("pert_type" in warning for warning in record.warnings)
    assert any("older_column" in warning for warning in record.warnings)


def test_a_truncated_frame_is_refused(finished: Workspace, lab: Workspace) -> None:
    folder = bring(finished, lab)["ff_images"]
    frame = min(folder.glob("*.jpg"))
    frame.write_bytes(b"")
    outcomes = actions(run(lab, apply=True))
    assert outcomes["ff_images"] == "refused"
    assert outcomes["organized_frames"] == "blocked"


def test_masks_that_disagree_with_the_segmentation_are_refused(finished: Workspace, lab: Workspace) -> None:
    folder = bring(finished, lab)["exported_masks"]
    first = min(folder.glob("*.png"))
    first.rename(folder / first.name.replace("emnum_1", "emnum_2"))
    outcome = {outcome.step: outcome for outcome in run(lab, apply=True)}["exported_masks"]
    assert outcome.action == "refused"
    assert "has no label picture" in outcome.detail


def test_without_raw_data_adoption_waits_unless_told(finished: Workspace, lab: Workspace) -> None:
    bring(finished, lab)
    shutil.rmtree(lab.data_root / "raw_image_data")
    blocked = actions(run(lab, apply=True))
    assert blocked["raw_manifest"] == "blocked"
    assert "adopt" not in blocked.values()
    done = run(lab, apply=True, without_inputs=True)
    assert {step for step, action in actions(done).items() if action == "adopt"} >= set(HEAVY)
    assert any("adopted without raw_manifest" in warning for outcome in done for warning in outcome.warnings)


def test_lost_records_come_back_and_nothing_is_computed(finished: Workspace, lab: Workspace) -> None:
    shutil.copytree(finished.data_root, lab.data_root)
    for finding in reconcile(lab).findings:
        refresh(lab, lab.layout.absolute(finding.path))
    before = read_artifacts(lab, EXP)
    for spec in lab.pipeline.steps:
        lab.layout.record(lab.output(spec, experiment=EXP)).unlink()
    outcomes = run(lab, apply=True)
    assert set(actions(outcomes).values()) == {"adopt"}
    assert {outcome.detail.split(":")[0] for outcome in outcomes} == {"own"}
    assert run_experiment(lab, EXP).computed == ()
    assert read_artifacts(lab, EXP) == before


@pytest.mark.parametrize("step", ["raw_manifest", "snips", "gdino_detections"])
def test_an_own_file_that_is_not_good_is_not_given_a_record(finished: Workspace, lab: Workspace, step: str) -> None:
    shutil.copytree(finished.data_root, lab.data_root)
    primary = lab.output(step, experiment=EXP)
    lab.layout.record(primary).unlink()
    if step == "raw_manifest":
        pictures = raw_folder(lab.layout, "Frames", experiment=EXP).rglob("*")
        raw = min(path for path in pictures if path.is_file())
        raw.write_bytes(raw.read_bytes() + b"\0")
    elif step == "snips":
        min(lab.layout.folders(step, experiment=EXP)[0].rglob("*.jpg")).unlink()
    else:
        primary.write_text(primary.read_text().replace("box_xyxy", "box", 1))
    outcome = {outcome.step: outcome for outcome in run(lab, apply=False)}.get(step)
    # A light step is made again rather than taken.
    assert outcome is not None
    assert outcome.action == ("refused" if step == "snips" else "make")


def test_latents_of_other_snips_are_refused(finished: Workspace, lab: Workspace) -> None:
    shutil.copytree(finished.data_root, lab.data_root)
    primary = lab.output("latents", experiment=EXP)
    lab.layout.record(primary).unlink()
    lines = primary.read_text().splitlines(keepends=True)
    primary.write_text("".join(lines[:-1]))
    outcome = {outcome.step: outcome for outcome in run(lab, apply=True)}["latents"]
    assert outcome.action == "refused"
    assert "1 snips are missing" in outcome.detail


def run_toy(workspace: Workspace) -> dict[str, str]:
    return actions(list(Import(workspace, workspace.data_root, apply=True).run([TOY])))


@pytest.fixture
def toy(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, TOY, words={"A01": "fish", "A02": "egg"})
    run_chain(workspace, TOY)
    return workspace


def test_an_edit_that_nobody_declared_is_not_adopted(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(path.read_bytes().replace(b"A01,4", b"A01,5"))
    assert run_toy(toy) == {"letters": "recorded", "lengths": "refused", "summary": "recorded"}
    assert next(plan_experiments(toy, experiments=[TOY])).closure == ("lengths", "summary")


def test_an_edit_that_was_given_up_is_not_adopted(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(path.read_bytes().replace(b"A01,4", b"A01,5"))
    discard(toy, path)
    assert run_toy(toy)["lengths"] == "refused"
    assert run_chain(toy, TOY)["lengths"][1] is False
    assert b"A01,4" in path.read_bytes()


def test_what_was_removed_to_save_space_does_not_block_what_comes_after_it(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    record = read_record(toy.layout, primary=path)
    assert record is not None
    toy.layout.record(path).write_bytes(encode(record.model_copy(update={"condition": "pruned"})))
    path.unlink()
    toy.layout.record(toy.output("summary", experiment=TOY)).unlink()
    assert run_toy(toy) == {"letters": "recorded", "lengths": "recorded", "summary": "adopt"}
    assert next(plan_experiments(toy, experiments=[TOY])).closure == ()
