"""Commit and rolling forward: old or new at every step, record and output together."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage import commit as module
from morphseq_dagster.engine.storage.commit import commit, is_interrupted, read_journal, roll_forward
from morphseq_dagster.engine.storage.records import (
    OutputVerdict,
    Record,
    compare_output,
    read_record,
)
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.errors import PermanentError

EXPERIMENT = "20240418"
StageTable = Callable[[bytes], Staged]
StagePictures = Callable[[dict[str, bytes]], Staged]
RecordOf = Callable[[Staged], Record]


class Stop(BaseException):
    """The process ends here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, name: str, *, call: int, after: bool) -> None:
    """Let the n-th call of a function of the module be the last thing that happens, done (`after`) or not."""
    real = getattr(module, name)
    seen = [0]

    def stop(*args: object, **kwargs: object) -> object:
        seen[0] += 1
        if seen[0] != call:
            return real(*args, **kwargs)
        if after:
            real(*args, **kwargs)
        raise Stop

    monkeypatch.setattr(module, name, stop)


def step_of(staged: Staged) -> str:
    return "pictures" if staged.units[0].kind == "folder" else "table"


def content(layout: Layout) -> dict[str, bytes]:
    found = {}
    for path in sorted(layout.data_root.rglob("*")):
        hidden = ".morphseq" in path.parts or any(part.endswith(".tmp") for part in path.parts)
        if path.is_file() and not hidden and not path.name.endswith(".provenance.json"):
            found[layout.relative(path)] = path.read_bytes()
    return found


def test_table_and_record_are_published_together(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, temporaries: Callable[[], list[str]]
) -> None:
    staged = stage_table(b"a\n1\n")
    assert not staged.primary.exists()
    record = commit(layout, staged=staged, record=record_of(staged))
    assert staged.primary.read_bytes() == b"a\n1\n"
    assert read_record(layout, primary=staged.primary) == record
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    assert temporaries() == []
    assert not is_interrupted(layout, step="table", experiment=EXPERIMENT)


def test_pictures_are_published_as_one_unit_without_orphans_of_the_earlier_version(
    layout: Layout, stage_pictures: StagePictures, record_of: RecordOf, temporaries: Callable[[], list[str]]
) -> None:
    for files in ({"a.txt": b"1", "b.txt": b"2"}, {"b.txt": b"3", "deep/c.txt": b"4"}):
        staged = stage_pictures(files)
        record = commit(layout, staged=staged, record=record_of(staged))
        assert read_record(layout, primary=staged.primary) == record
        assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
        assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
    assert {k: v for k, v in content(layout).items() if not k.endswith(".json")} == {
        "pictures/20240418/b.txt": b"3",
        "pictures/20240418/deep/c.txt": b"4",
        "masks/20240418/b.txt": b"3",
        "masks/20240418/deep/c.txt": b"4",
    }
    assert temporaries() == []


CRASHES = [
    *(("table", name, call) for name, call in [
        ("stage_file", 1), ("write_durably", 1), ("_move", 1), ("replace_file", 1), ("_move", 2), ("replace_file", 2),
        ("clear_failure", 1), ("sync_folder", 1),
    ]),
    *(("pictures", name, call) for name, call in [
        ("write_file", 1), ("sync_folder", 1), ("write_durably", 1), ("_move", 1), ("replace_folder", 1), ("_move", 2),
        ("replace_folder", 2), ("clear_failure", 1), ("sync_folder", 2),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["first version", "second version"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("what", "name", "call"), CRASHES)
def test_crash_between_any_two_acts_leaves_old_or_new_and_is_finished_by_the_next_writer(
    *,
    layout: Layout,
    stage_table: StageTable,
    stage_pictures: StagePictures,
    record_of: RecordOf,
    temporaries: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    first: bool,
    what: str,
    after: bool,
    name: str,
    call: int,
) -> None:
    def stage(version: bytes) -> Staged:
        if what == "table":
            return stage_table(version * 3)
        return stage_pictures({f"{stem}.txt": version for stem in ("same", version.decode())})

    versions = []
    if not first:
        staged = stage(b"1")
        commit(layout, staged=staged, record=record_of(staged))
    versions.append(content(layout))
    staged = stage(b"2")
    record = record_of(staged)
    with monkeypatch.context() as patch:
        crash_at(patch, name, call=call, after=after)
        # Nothing of the clean-up happens when a process is killed.
        patch.setattr(module, "_remove", lambda unit: None)
        with pytest.raises(Stop):
            commit(layout, staged=staged, record=record)
    now = content(layout)
    pending = is_interrupted(layout, step=step_of(staged), experiment=EXPERIMENT)
    if not pending:
        # Not begun, or done up to the removal of the journal.
        assert now == versions[0] or compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    rolled = roll_forward(layout, step=step_of(staged), experiment=EXPERIMENT)
    if pending:
        assert rolled == record
        assert read_record(layout, primary=staged.primary) == record
        assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
        assert temporaries() == []
    assert not is_interrupted(layout, step=step_of(staged), experiment=EXPERIMENT)


def test_rolling_forward_twice_or_with_nothing_pending_does_nothing(
    layout: Layout, stage_table: StageTable, record_of: RecordOf
) -> None:
    assert roll_forward(layout, step="table", experiment=EXPERIMENT) is None
    staged = stage_table(b"1")
    commit(layout, staged=staged, record=record_of(staged))
    before = staged.primary.stat().st_ino
    assert roll_forward(layout, step="table", experiment=EXPERIMENT) is None
    assert staged.primary.stat().st_ino == before


@pytest.mark.parametrize("what", ["table", "pictures"])
def test_refusal_before_the_journal_keeps_the_old_version_and_removes_what_was_staged(
    *,
    layout: Layout,
    stage_table: StageTable,
    stage_pictures: StagePictures,
    record_of: RecordOf,
    temporaries: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    def stage(data: bytes) -> Staged:
        return stage_table(data) if what == "table" else stage_pictures({"a.txt": data})

    old = stage(b"1")
    record = commit(layout, staged=old, record=record_of(old))
    new = stage(b"2")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module, "write_durably", refuse)
    with pytest.raises(OSError, match="full"):
        commit(layout, staged=new, record=record_of(new))
    assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
    assert read_record(layout, primary=old.primary) == record
    assert temporaries() == []


def test_journal_whose_temporaries_are_gone_publishes_nothing_and_is_done_with(
    layout: Layout, stage_table: StageTable, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stage_table(b"1")
    record = commit(layout, staged=old, record=record_of(old))
    new = stage_table(b"2")
    with monkeypatch.context() as patch:
        crash_at(patch, "write_durably", call=1, after=True)
        with pytest.raises(Stop):
            commit(layout, staged=new, record=record_of(new))
    for path in layout.data_root.rglob("*.tmp"):
        path.unlink()
    assert roll_forward(layout, step="table", experiment=EXPERIMENT) == record
    assert old.primary.read_bytes() == b"1"
    assert not is_interrupted(layout, step="table", experiment=EXPERIMENT)


def test_damaged_journal_is_an_error_that_names_it(layout: Layout) -> None:
    path = layout.journal("table", experiment=EXPERIMENT)
    path.parent.mkdir(parents=True)
    path.write_text('{"step": "table"}')
    with pytest.raises(PermanentError) as caught:
        roll_forward(layout, step="table", experiment=EXPERIMENT)
    assert caught.value.where == str(path)
    with pytest.raises(PermanentError):
        read_journal(path)


def test_crash_between_the_two_renames_of_a_disk_without_exchange_is_mended(
    layout: Layout, stage_pictures: StagePictures, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from morphseq_dagster.engine.storage import atomic_io as durable

    monkeypatch.setattr(durable, "_exchange", lambda first, second: False)
    old = stage_pictures({"a.txt": b"1"})
    commit(layout, staged=old, record=record_of(old))
    new = stage_pictures({"a.txt": b"2"})
    real = Path.rename
    calls = [0]

    def rename(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == 2:
            raise Stop
        return real(self, target)

    record = record_of(new)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Stop):
            commit(layout, staged=new, record=record)
    missing = [folder for folder in layout.folders("pictures", experiment=EXPERIMENT) if not folder.exists()]
    assert len(missing) == 1
    assert roll_forward(layout, step="pictures", experiment=EXPERIMENT) == record
    assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED


def test_everything_is_flushed_before_the_first_rename(
    layout: Layout, stage_pictures: StagePictures, record_of: RecordOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    real = os.fsync

    def note(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    staged = stage_pictures({"a.txt": b"1", "deep/b.txt": b"2"})
    record = record_of(staged)

    def check(journal_layout: Layout, journal: object) -> None:
        for unit in staged.units:
            for path in (unit.temporary, *unit.temporary.rglob("*")):
                assert path.stat().st_ino in flushed, f"{path} was not flushed"

    monkeypatch.setattr(module, "_publish", check)
    commit(layout, staged=staged, record=record)


def test_old_folder_that_a_crash_left_under_the_temporary_name_is_removed_with_the_rolling_forward(
    layout: Layout,
    stage_pictures: StagePictures,
    record_of: RecordOf,
    temporaries: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from morphseq_dagster.engine.storage import atomic_io as durable

    old = stage_pictures({"a.txt": b"1"})
    commit(layout, staged=old, record=record_of(old))
    new = stage_pictures({"a.txt": b"2"})
    record = record_of(new)

    def stop(folder: Path) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(durable, "remove_folder", stop)
        with pytest.raises(Stop):
            commit(layout, staged=new, record=record)
    assert temporaries() != []
    assert roll_forward(layout, step="pictures", experiment=EXPERIMENT) == record
    assert temporaries() == []
    assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
