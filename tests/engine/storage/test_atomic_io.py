"""Writes, renames and exchanges of folders: old or new, and nothing left of a failure."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.engine.storage import atomic_io
from morphseq_dagster.engine.storage.atomic_io import (
    host_name,
    is_temporary,
    link_or_copy,
    make_folder,
    parse_temporary,
    remove_folder,
    replace_folder,
    stage_file,
    temporary_beside,
    write_durably,
)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)


@given(names.filter(lambda n: n not in (".", "..")))
def test_temporary_tells_its_writer_and_lies_beside_its_target(name: str) -> None:
    path = temporary_beside(Path("/folder") / name)
    parsed = parse_temporary(path.name)
    assert path.parent == Path("/folder")
    assert path.name.startswith(".")
    assert is_temporary(path)
    if "\n" not in name:
        assert parsed is not None
        assert (parsed.stem, parsed.host, parsed.pid) == (name, host_name(), os.getpid())


def test_two_temporaries_of_one_target_differ() -> None:
    assert len({temporary_beside(Path("/f/x")) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "name",
    ["x.tmp", ".x.tmp", "x.csv", ".x.host.12.0123456789ab", ".x.host.12.0123456789AB.tmp", ".x.host.12.01234567.tmp",
     ".x.host.pid.0123456789ab.tmp", "x.host.12.0123456789ab.tmp"],
)  # fmt: skip
def test_foreign_name_is_never_taken_for_ours(name: str) -> None:
    assert parse_temporary(name) is None


def test_write_replaces_whole_content_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "x"
    write_durably(target, b"old and longer")
    write_durably(target, b"new")
    assert tree(tmp_path) == {"deep/er/x": b"new"}


def test_failing_write_leaves_the_old_version_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x"
    write_durably(target, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="refused"):
        write_durably(target, b"new")
    assert tree(tmp_path) == {"x": b"old"}


def test_make_folder_refuses_a_file_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the depth
        make_folder(tmp_path / "x" / "y")


def test_staged_file_is_whole_before_it_is_published(tmp_path: Path) -> None:
    temporary = stage_file(tmp_path / "x", b"data")
    assert temporary.read_bytes() == b"data"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("exchange", [True, False])
def test_folder_is_replaced_whole_and_no_file_of_the_old_one_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:  # a file system without an atomic exchange
        monkeypatch.setattr(atomic_io, "_exchange", lambda first, second: False)
    target = tmp_path / "set"
    replace_folder(target, temporary=fill(temporary_beside(target), a=b"1", b=b"2"))
    assert tree(tmp_path) == {"set/a": b"1", "set/b": b"2"}
    replace_folder(target, temporary=fill(temporary_beside(target), b=b"3", c=b"4"))
    assert tree(tmp_path) == {"set/b": b"3", "set/c": b"4"}
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_exchanged_folder_is_there_at_every_moment(tmp_path: Path) -> None:
    target = tmp_path / "set"
    replace_folder(target, temporary=fill(temporary_beside(target), a=b"0"))
    stop = threading.Event()

    def publish() -> None:
        try:
            for number in range(1, 200):
                replace_folder(target, temporary=fill(temporary_beside(target), a=str(number).encode()))
        finally:
            stop.set()

    writer = threading.Thread(target=publish)
    writer.start()
    looks = 0
    while not stop.is_set():
        assert target.is_dir()
        looks += 1
    writer.join()
    assert looks > 0
    assert (target / "a").read_bytes() == b"199"


def test_removing_a_folder_that_another_removes_too_is_fine(tmp_path: Path) -> None:
    folders = [fill(tmp_path / f"set{n}", **{f"f{i}": b"" for i in range(60)}) for n in range(20)]
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            for folder in folders:
                remove_folder(folder)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == []


def test_link_shares_the_bytes_and_copies_where_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"picture")
    link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == source.stat().st_ino

    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"picture"
    assert (tmp_path / "copied").stat().st_ino != source.stat().st_ino


def test_refused_link_for_another_reason_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="full"):
        link_or_copy(tmp_path, tmp_path / "x")


def test_refused_rename_leaves_the_old_version_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def refuse(*args: object, **values: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(target, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


class OtherLibrary:
    """A C library whose exchange of two paths fails, or that has none."""

    def __init__(self, code: int) -> None:
        if code:
            self.renameat2 = lambda *_: -1


@pytest.mark.parametrize("code", [0, errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_folder_is_moved_aside_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target, temporary = tmp_path / "folder", tmp_path / "new.tmp"
    for folder, content in ((target, "old"), (temporary, "new")):
        folder.mkdir()
        (folder / content).touch()
    monkeypatch.setattr(atomic_io.ctypes, "CDLL", lambda *_, **__: OtherLibrary(code))
    monkeypatch.setattr(atomic_io.ctypes, "get_errno", lambda: code)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            replace_folder(target, temporary=temporary)
        assert [path.name for path in target.iterdir()] == ["old"]
        return
    replace_folder(target, temporary=temporary)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
