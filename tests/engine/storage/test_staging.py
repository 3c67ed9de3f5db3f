"""Staging: complete and hashed under temporary names, nothing published, nothing left of a failure."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage import staging
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.staging import FolderStage, Staged


def published(layout: Layout) -> list[str]:
    return [
        layout.relative(path)
        for path in layout.data_root.rglob("*")
        if path.is_file() and not any(part.endswith(".tmp") for part in path.parts)
    ]


def test_staged_table_is_hashed_and_not_published(layout: Layout, stage_table: Callable[[bytes], Staged]) -> None:
    staged = stage_table(b"a\n")
    assert staged.sha256 == hash_bytes(b"a\n")
    assert staged.staged_primary.read_bytes() == b"a\n"
    assert published(layout) == []


def test_staged_pictures_hold_the_manifest_in_the_last_unit(
    layout: Layout, stage_pictures: Callable[[dict[str, bytes]], Staged]
) -> None:
    staged = stage_pictures({"a.txt": b"1"})
    assert hash_bytes(staged.staged_primary.read_bytes()) == staged.sha256
    assert staged.staged_primary.is_relative_to(staged.units[-1].temporary)
    assert [unit.target.parent.name for unit in staged.units] == ["masks", "pictures"]
    assert published(layout) == []


@pytest.mark.parametrize("take", ["add_link", "add_copy"])
def test_pictures_may_lie_in_folders_within_folders(layout: Layout, tmp_path: Path, take: str) -> None:
    folders = layout.folders("pictures", experiment="20240418")
    (tmp_path / "source").write_bytes(b"1")
    stage = FolderStage(layout, folders=folders)
    for name in ("a/b/one.png", "a/b/two.png"):
        getattr(stage, take)(folders[1] / name, source=tmp_path / "source")
    units, sha256 = stage.finish(folders[0] / "deep" / "er" / "m.json", manifest=b"{}")
    assert sha256 == hash_bytes(b"{}")
    assert (units[0].temporary / "a" / "b" / "two.png").read_bytes() == b"1"
    assert (units[-1].temporary / "deep" / "er" / "m.json").read_bytes() == b"{}"
    is_link = (units[0].temporary / "a" / "b" / "one.png").stat().st_ino == (tmp_path / "source").stat().st_ino
    assert is_link == (take == "add_link")


@pytest.mark.parametrize("what", ["table", "pictures"])
def test_discarded_staging_leaves_nothing(
    layout: Layout,
    stage_table: Callable[[bytes], Staged],
    stage_pictures: Callable[[dict[str, bytes]], Staged],
    temporaries: Callable[[], list[str]],
    what: str,
) -> None:
    staged = stage_table(b"a") if what == "table" else stage_pictures({"a.txt": b"1"})
    assert temporaries()
    staged.discard()
    staged.discard()
    assert temporaries() == []


def test_file_outside_the_folders_is_refused(layout: Layout, tmp_path: Path) -> None:
    stage = FolderStage(layout, folders=layout.folders("pictures", experiment="20240418"))
    with pytest.raises(ValueError, match="lies in none of"):
        stage.add_link(layout.data_root / "elsewhere" / "x", source=tmp_path)
    stage.discard()


def test_refusal_while_the_second_folder_is_made_leaves_no_first(
    layout: Layout, temporaries: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = staging.make_folder

    def refuse(folder: Path) -> None:
        if folder.name == "masks":
            raise OSError(errno.ENOSPC, "full")
        real(folder)

    monkeypatch.setattr(staging, "make_folder", refuse)
    with pytest.raises(OSError, match="full"):
        FolderStage(layout, folders=layout.folders("pictures", experiment="20240418"))
    assert temporaries() == []
