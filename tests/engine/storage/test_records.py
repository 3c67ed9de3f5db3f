"""Records: what they say of an output, and what is found when somebody touches it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.commit import commit
from morphseq_dagster.engine.storage.file_lists import list_tree
from morphseq_dagster.engine.storage.records import (
    Failure,
    OutputVerdict,
    Record,
    clear_failure,
    compare_output,
    read_failure,
    read_record,
    write_failure,
)
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.errors import PermanentError, TransientError, report

StageTable = Callable[[bytes], Staged]
StagePictures = Callable[[dict[str, bytes]], Staged]
RecordOf = Callable[[Staged], Record]


@pytest.fixture
def table(layout: Layout, stage_table: StageTable, record_of: RecordOf) -> tuple[Path, Record]:
    staged = stage_table(b"old")
    return staged.primary, commit(layout, staged=staged, record=record_of(staged))


@pytest.fixture
def pictures(layout: Layout, stage_pictures: StagePictures, record_of: RecordOf) -> tuple[Path, Record]:
    staged = stage_pictures({"a.txt": b"1", "deep/b.txt": b"2"})
    return staged.primary, commit(layout, staged=staged, record=record_of(staged))


def restore_times(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_touched_file_of_equal_content_is_as_recorded(layout: Layout, table: tuple[Path, Record]) -> None:
    path, record = table
    os.utime(path, (1, 1))
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED


def test_copied_file_of_equal_content_is_as_recorded(layout: Layout, table: tuple[Path, Record]) -> None:
    path, record = table
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED


def test_changed_and_lost_file_are_found(layout: Layout, table: tuple[Path, Record]) -> None:
    path, record = table
    path.write_bytes(b"new")
    assert compare_output(layout, record=record) is OutputVerdict.CHANGED
    path.unlink()
    assert compare_output(layout, record=record) is OutputVerdict.MISSING


def test_rewriting_in_place_with_size_and_time_restored_is_found_by_thorough_comparison_alone(
    layout: Layout, table: tuple[Path, Record]
) -> None:
    path, record = table
    before = path.stat()
    path.write_bytes(b"odd")
    restore_times(path, before)
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED  # the documented hole
    assert compare_output(layout, record=record, thorough=True) is OutputVerdict.CHANGED


@pytest.mark.parametrize("folder", ["pictures", "masks"])
def test_changed_lost_or_added_picture_is_found(layout: Layout, pictures: tuple[Path, Record], folder: str) -> None:
    _, record = pictures
    path = layout.data_root / folder / "20240418" / "deep" / "b.txt"
    path.unlink()
    path.write_bytes(b"3")
    assert compare_output(layout, record=record) is OutputVerdict.CHANGED
    path.unlink()
    assert compare_output(layout, record=record) is OutputVerdict.MISSING
    path.write_bytes(b"2")
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    path.with_name("surplus.txt").write_bytes(b"")
    assert compare_output(layout, record=record) is OutputVerdict.CHANGED


def test_lost_folder_of_an_image_set_is_missing(layout: Layout, pictures: tuple[Path, Record]) -> None:
    _, record = pictures
    (layout.data_root / "masks" / "20240418").rename(layout.data_root / "masks" / "elsewhere")
    assert compare_output(layout, record=record) is OutputVerdict.MISSING


def test_temporaries_and_records_inside_a_folder_do_not_change_it(
    layout: Layout, pictures: tuple[Path, Record]
) -> None:
    path, record = pictures
    path.with_name(".x.host.1.0123456789ab.tmp").write_bytes(b"half")
    path.with_name(path.name + ".failure.json").write_bytes(b"{}")
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    assert compare_output(layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
    assert {p.name for p, _ in list_tree(path.parent)} == {path.name, "a.txt", "b.txt"}


def test_absent_record_is_none_and_damaged_one_is_an_error_that_names_it(
    layout: Layout, table: tuple[Path, Record]
) -> None:
    path, record = table
    assert read_record(layout, primary=path) == record
    for damage in (b"", b"{", b"[]", b'{"step": "table"}', b'{"surplus": 1}', b"\xff"):
        layout.record(path).write_bytes(damage)
        with pytest.raises(PermanentError) as caught:
            read_record(layout, primary=path)
        assert caught.value.where == str(layout.record(path))
    layout.record(path).unlink()
    assert read_record(layout, primary=path) is None


def test_failure_is_kept_until_it_is_cleared_or_the_next_commit(
    layout: Layout, table: tuple[Path, Record], stage_table: StageTable, record_of: RecordOf
) -> None:
    path, record = table
    error = TransientError(expected="a", found="b", where="c", remedy="d")
    failure = Failure(
        step="table", experiment="20240418", request_key="k", error=report(error), run_id="r", host="h", failed_at="now"
    )
    write_failure(layout, primary=path, failure=failure)
    assert read_failure(layout, primary=path) == failure
    assert compare_output(layout, record=record) is OutputVerdict.AS_RECORDED
    clear_failure(layout, primary=path)
    clear_failure(layout, primary=path)
    assert read_failure(layout, primary=path) is None
    write_failure(layout, primary=path, failure=failure)
    staged = stage_table(b"new")
    commit(layout, staged=staged, record=record_of(staged))
    assert read_failure(layout, primary=path) is None
