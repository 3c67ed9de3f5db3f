"""Sweep: what the dead left is finished or removed, what the living do is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage import commit as commit_module
from morphseq_dagster.engine.storage import step_locks as claims
from morphseq_dagster.engine.storage import sweep as sweep_module
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.commit import commit, is_interrupted
from morphseq_dagster.engine.storage.records import OutputVerdict, Record, compare_output
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.engine.storage.step_locks import StepLock, hold_lock, process_start
from morphseq_dagster.engine.storage.sweep import FOREIGN_AGE_S, find_temporaries, sweep

EXPERIMENT = "20240418"
StageTable = Callable[[bytes], Staged]
RecordOf = Callable[[Staged], Record]


@pytest.fixture(scope="module")
def dead() -> int:
    """Number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(folder: Path, *, pid: int, host: str | None = None, name: str = "t_20240418.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.{host or host_name()}.{pid}.0123456789ab.tmp"
    path.write_bytes(b"half")
    return path


def places(layout: Layout) -> list[Path]:
    """Every folder in which a publication, claim, checkpoint, request, preview or failure may be cut short."""
    return [
        layout.primary("table", experiment=EXPERIMENT).parent,
        layout.primary("pictures", experiment=EXPERIMENT).parent,
        *(folder.parent for folder in layout.folders("pictures", experiment=EXPERIMENT)),
        layout.lock("table", experiment=EXPERIMENT).parent,
        layout.journal("table", experiment=EXPERIMENT).parent,
        layout.checkpoints("table", experiment=EXPERIMENT),
        layout.requests(EXPERIMENT),
        layout.preview("letters", experiment=EXPERIMENT).parent,
    ]


def test_what_a_dead_process_left_is_removed_wherever_it_lies(layout: Layout, dead: int) -> None:
    for folder in places(layout):
        left_behind(folder, pid=dead)
        (folder / f".set.{host_name()}.{dead}.0123456789ac.tmp").mkdir()
    report = sweep(layout)
    assert sorted(layout.data_root.rglob("*.tmp")) == []
    assert len(report.removed) == 2 * len(set(places(layout)))
    assert sweep(layout).removed == ()


def test_request_and_outcome_of_a_dead_process_are_removed(layout: Layout, dead: int) -> None:
    folder = layout.requests(EXPERIMENT)
    folder.mkdir(parents=True)
    gone = [folder / f"table.{host_name()}.{dead}.0123456789ab.{kind}.json" for kind in ("request", "outcome")]
    kept = [
        folder / f"table.{host_name()}.{os.getpid()}.0123456789ab.request.json",
        folder / "table.elsewhere.1.0123456789ab.request.json",
        folder / "notes.json",
    ]
    for path in (*gone, *kept):
        path.write_bytes(b"{}")
    sweep(layout)
    assert sorted(folder.iterdir()) == sorted(kept)


def test_what_a_living_process_stages_is_kept(layout: Layout, stage_table: StageTable) -> None:
    staged = stage_table(b"1")
    report = sweep(layout)
    assert report.removed == ()
    assert report.kept == (layout.relative(staged.staged_primary),)
    assert staged.staged_primary.exists()


def test_temporary_of_another_host_is_judged_by_age_and_claims_never_by_its_number(layout: Layout, dead: int) -> None:
    folder = layout.data_root / "tables"
    young = left_behind(folder, pid=dead, host="elsewhere", name="young")
    old = left_behind(folder, pid=os.getpid(), host="elsewhere", name="old")
    long_ago = time.time() - FOREIGN_AGE_S - 60
    os.utime(old, (long_ago, long_ago))
    claim = layout.lock("other", experiment=EXPERIMENT)
    claim.parent.mkdir(parents=True, exist_ok=True)
    held = StepLock(host="elsewhere", pid=1, process_start="1", run_id="r", taken_at="then", token="t")
    claim.write_text(held.model_dump_json())
    assert sweep(layout).removed == ()
    claim.unlink()
    assert sweep(layout).removed == (layout.relative(old),)
    assert young.exists()


def test_files_of_other_programs_are_left_alone(layout: Layout) -> None:
    folder = layout.data_root / "tables"
    folder.mkdir(parents=True)
    names = ["x.tmp", ".x.tmp", "upload.csv.tmp", ".t.csv.host.12.tmp", "t_20240418.csv"]
    for name in names:
        (folder / name).write_bytes(b"")
    assert sweep(layout).removed == ()
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    assert list(find_temporaries(layout)) == []


def test_dead_claims_are_broken_and_living_ones_kept(layout: Layout, dead: int) -> None:
    gone = layout.lock("table", experiment=EXPERIMENT)
    gone.parent.mkdir(parents=True)
    claim = StepLock(host=host_name(), pid=dead, process_start="1", run_id="r", taken_at="then", token="t")
    gone.write_text(claim.model_dump_json())
    with hold_lock(layout.lock("pictures", experiment=EXPERIMENT), run_id="r"):
        assert sweep(layout).broken_locks == (layout.relative(gone),)
        assert layout.lock("pictures", experiment=EXPERIMENT).exists()
    assert not gone.exists()


class Stop(BaseException):
    """The process ends here."""


def interrupt(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> tuple[Staged, Record]:
    """Publish one version, then begin the next and stop after its journal."""
    old = stage_table(b"1")
    commit(layout, staged=old, record=record_of(old))
    new = stage_table(b"2")
    record = record_of(new)

    def stop(*args: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "_publish", stop)
        with pytest.raises(Stop):
            commit(layout, staged=new, record=record)
    return new, record


def test_interrupted_publication_is_rolled_forward(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, record = interrupt(layout, stage_table, record_of, monkeypatch)
    report = sweep(layout)
    assert report.rolled_forward == (layout.relative(layout.journal("table", experiment=EXPERIMENT)),)
    assert new.primary.read_bytes() == b"2"
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    assert sorted(layout.data_root.rglob("*.tmp")) == []


def test_publication_of_a_living_holder_is_left_to_it(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, _ = interrupt(layout, stage_table, record_of, monkeypatch)
    with hold_lock(layout.lock("table", experiment=EXPERIMENT), run_id="r"):
        report = sweep(layout)
    assert report.rolled_forward == ()
    assert new.primary.read_bytes() == b"1"
    assert is_interrupted(layout, step="table", experiment=EXPERIMENT)
    assert layout.relative(layout.journal("table", experiment=EXPERIMENT)) in report.kept


def test_publication_that_a_cluster_job_may_be_making_is_left_to_it(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, _ = interrupt(layout, stage_table, record_of, monkeypatch)
    asked: list[tuple[str, str]] = []

    def is_at_work(experiment: str, step: str) -> bool:
        asked.append((experiment, step))
        return True

    report = sweep(layout, is_at_work=is_at_work)
    assert asked == [(EXPERIMENT, "table")]
    assert report.rolled_forward == ()
    assert new.primary.read_bytes() == b"1"
    assert sweep(layout).rolled_forward, "once the job has ended it is finished"


def test_worker_is_not_waited_for(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(layout, stage_table, record_of, monkeypatch)
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: pytest.fail("the sweep waits for a worker"))
    with hold_lock(layout.lock("table", experiment=EXPERIMENT), run_id="r"):
        report = sweep(layout)
    assert report.rolled_forward == ()


def test_temporary_promised_by_a_journal_written_after_the_sweep_began_is_kept(
    layout: Layout,
    stage_table: StageTable,
    record_of: RecordOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A writer puts its journal down and dies just before its process is looked at: the promise was not there when the
    # sweep began, yet without these temporaries the publication cannot be finished.
    started = process_start(os.getpid())
    assert started
    new = stage_table(b"2")
    record = record_of(new)

    def stop(*args: object) -> None:
        raise Stop

    def look(*args: object) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(commit_module, "_publish", stop)
            if not is_interrupted(layout, step="table", experiment=EXPERIMENT):
                with pytest.raises(Stop):
                    commit(layout, staged=new, record=record)
        return ""

    monkeypatch.setattr(sweep_module, "process_is_gone", lambda pid: look() == "")
    sweep(layout)
    assert new.staged_primary.exists()
    monkeypatch.undo()
    sweep(layout)
    assert new.primary.read_bytes() == b"2"


def test_without_a_process_file_system_the_living_are_known_all_the_same(
    layout: Layout, stage_table: StageTable, monkeypatch: pytest.MonkeyPatch, dead: int
) -> None:
    gone = left_behind(layout.data_root / "tables", pid=dead)
    staged = stage_table(b"1")
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self, **k: False if str(self).startswith("/proc") else real(self))
    monkeypatch.setattr(claims, "process_start", lambda pid: "")
    sweep(layout)
    assert staged.staged_primary.is_file()
    assert not gone.is_file()


def test_one_claim_that_cannot_be_understood_does_not_stop_the_sweep(layout: Layout, dead: int) -> None:
    claim = layout.lock("a", experiment=EXPERIMENT)
    claim.parent.mkdir(parents=True)
    claim.write_text("{}")
    journal = layout.journal("b", experiment=EXPERIMENT)
    journal.parent.mkdir(parents=True)
    journal.write_text("{}")
    gone = left_behind(layout.data_root / "tables", pid=dead)
    report = sweep(layout)
    assert not gone.exists()
    assert {layout.relative(claim), layout.relative(journal)} <= set(report.kept)


def test_empty_data_root_is_swept_without_touching_it(layout: Layout) -> None:
    assert sweep(layout) == sweep(layout)
    assert not layout.data_root.exists()
