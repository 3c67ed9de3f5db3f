"""The cohort's manifest at sizes where others give up."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.cohort import (
    CohortManifest,
    compare_manifest,
    encode_manifest,
    read_manifest,
)
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import InputRead, OutputState, Record, encode, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import name_experiments

MEMBER, JOINED = "embryo_latents_final", "cohort_final"


def make_record(layout: Layout, experiment: str, *, content: bytes, inputs: tuple[InputRead, ...] = ()) -> Record:
    """Record of a final table (or, with inputs, of the cohort) that lies there with this content."""
    step = MEMBER if not inputs else JOINED
    path = layout.primary(step, experiment=experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    status = path.stat()
    record = Record(
        step=step,
        experiment=experiment,
        data_version=hash_bytes(content),
        output=OutputState(
            path=layout.relative(path),
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            sha256=hash_bytes(content),
        ),
        inputs=inputs,
        step_version=1,
        recipe={},
        recipe_hash="",
        request_key="k",
        counts={"rows": len(content)},
        run_id="r",
        place="process",
        host="h",
        pid=1,
        started_at="",
        finished_at="",
        seconds=1.0,
        cpu_seconds=1.0,
    )
    layout.record(path).write_bytes(encode(record))
    return record


def cohort_request(layout: Layout) -> StepRequest:
    workspace = Workspace(layout.data_root, MORPHSEQ)
    assert MORPHSEQ.cohort is not None
    return workspace.request(MORPHSEQ.cohort, experiment=COHORT, run_id="r")


def make_cohort(layout: Layout, *, count: int) -> Record:
    """Record of a cohort of so many experiments, all as they are."""
    for experiment in name_experiments(count):
        make_record(layout, experiment, content=experiment.encode())
    request = cohort_request(layout)
    return make_record(layout, COHORT, content=b"cohort", inputs=request.inputs)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return MORPHSEQ.layout(tmp_path)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 150, 1000])
def test_additions_changes_and_removals_are_seen_at_every_size(layout: Layout, count: int) -> None:
    record = make_cohort(layout, count=count)
    before = read_manifest(MORPHSEQ, layout=layout)
    assert len(before.included) == count
    assert not compare_manifest(before, record=record).is_stale

    last = name_experiments(count)[-1]
    make_record(layout, last, content=b"other")
    changed = read_manifest(MORPHSEQ, layout=layout)
    assert compare_manifest(changed, record=record).changed == (
        (last, hash_bytes(last.encode()), hash_bytes(b"other")),
    )
    make_record(layout, last, content=last.encode())
    assert read_manifest(MORPHSEQ, layout=layout).digest == before.digest

    make_record(layout, "20250101_new", content=b"new")
    added = read_manifest(MORPHSEQ, layout=layout)
    assert compare_manifest(added, record=record).added == ("20250101_new",)
    assert compare_manifest(added, record=record).removed == ()

    path = layout.primary(MEMBER, experiment=last)
    path.unlink()
    layout.record(path).unlink()
    removed = read_manifest(MORPHSEQ, layout=layout)
    assert compare_manifest(removed, record=record).removed == (last,)
    assert len({before.digest, changed.digest, added.digest, removed.digest}) == 4


def test_the_request_asks_for_exactly_the_manifest(layout: Layout) -> None:
    make_cohort(layout, count=3)
    manifest = read_manifest(MORPHSEQ, layout=layout)
    assert cohort_request(layout).inputs == manifest.inputs()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path, record: record.unlink(), "no record"),
        (lambda path, record: path.unlink(), "missing"),
        (lambda path, record: path.write_bytes(b"x" * 40), "changed"),
        (lambda path, record: record.write_bytes(b"{"), "problems"),
    ],
    ids=["no record", "file gone", "file edited", "record damaged"],
)
def test_who_is_left_out_is_named_with_the_reason_and_makes_the_cohort_stale(layout, damage, reason) -> None:  # noqa: ANN001
    record = make_cohort(layout, count=3)
    second = name_experiments(3)[1]
    path = layout.primary(MEMBER, experiment=second)
    damage(path, layout.record(path))
    manifest = read_manifest(MORPHSEQ, layout=layout)
    assert [member.experiment for member in manifest.excluded] == [second]
    assert reason in manifest.excluded[0].exclusion
    change = compare_manifest(manifest, record=record)
    assert change.changed == ((second, hash_bytes(second.encode()), None),)
    assert second in change.describe()


def test_rows_and_versions_stand_in_the_encoded_manifest(layout: Layout) -> None:
    make_cohort(layout, count=2)
    value = encode_manifest(read_manifest(MORPHSEQ, layout=layout))
    assert value["experiments"] == 2
    assert value["rows"] == sum(len(name) for name in name_experiments(2))
    assert value["members"][0]["data_version"] == hash_bytes(name_experiments(2)[0].encode())


def test_names_that_are_no_experiments_are_no_members(layout: Layout) -> None:
    make_cohort(layout, count=1)
    folder = layout.primary(MEMBER, experiment="x").parent
    (folder / "embryo_latents_final_notes.csv").write_text("")
    assert len(read_manifest(MORPHSEQ, layout=layout).members) == 1
    assert read_record(layout, primary=layout.primary(JOINED, experiment=COHORT)) is not None
    assert CohortManifest(()).digest != read_manifest(MORPHSEQ, layout=layout).digest
