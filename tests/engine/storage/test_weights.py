from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.weights import hash_weights, measure, recall_hash, remember_hash


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    return path


def rewrite_in_place(path: Path, data: bytes) -> None:
    """Other content, with size, time and inode as before."""
    status = path.stat()
    with path.open("r+b") as handle:
        handle.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_hash_is_that_of_the_content_and_is_read_once(layout: Layout, file: Path) -> None:
    assert recall_hash(layout, file) is None
    assert not layout.weights_hashes.exists(), "looking writes nothing"
    assert remember_hash(layout, file) == hash_bytes(b"one") == recall_hash(layout, file)
    rewrite_in_place(file, b"two")  # the only way to see that nobody read it again
    assert remember_hash(layout, file) == recall_hash(layout, file) == hash_bytes(b"one")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"three"),
        lambda path: (path.unlink(), path.write_bytes(b"two")),
        lambda path: os.utime(path, ns=(0, 0)),
    ],
    ids=["size", "inode", "time"],
)
def test_other_size_inode_or_time_is_read_again(layout: Layout, file: Path, change: Callable[[Path], object]) -> None:
    remember_hash(layout, file)
    change(file)
    assert recall_hash(layout, file) is None
    assert remember_hash(layout, file) == hash_bytes(file.read_bytes())


def test_folder_is_hashed_with_names_and_contents(layout: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "text").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"12")
    (folder / "text" / "b.json").write_bytes(b"345")
    first = remember_hash(layout, folder)
    assert measure(folder) == 5
    (folder / "text" / "b.json").rename(folder / "b.json")
    assert recall_hash(layout, folder) is None
    assert remember_hash(layout, folder) != first
    (folder / "b.json").rename(folder / "text" / "b.json")
    assert hash_weights(folder) == first


def test_damaged_cache_counts_as_empty_and_is_replaced(layout: Layout, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"x")
    remember_hash(layout, file)
    remember_hash(layout, other)
    assert recall_hash(layout, file) is not None, "an entry more loses none"
    for damage in (b"", b"[]", b'{"schema": 2}', b'{"schema": 1, "weights": {"a": 3}}'):
        layout.weights_hashes.write_bytes(damage)
        assert recall_hash(layout, file) is None
    assert remember_hash(layout, file) == hash_bytes(b"one") == recall_hash(layout, file)
