"""Checkpoints: a finished well is found again with the same content, anything else is as if it were not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.storage.checkpoints import (
    WellPayload,
    clear_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

PAYLOAD = WellPayload({"b": [1, 2.5], "a": None}, {"x.png": b"1", "deep/y.png": b"2"})


def read(payload: WellPayload | None) -> dict[str, bytes]:
    assert payload is not None
    return {name: Path(str(path)).read_bytes() for name, path in payload.files.items()}


def test_saved_well_is_loaded_with_equal_content(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path / "A01", key="k", payload=PAYLOAD)
    loaded = load_checkpoint(tmp_path / "A01", key="k")
    assert loaded == saved
    assert read(loaded) == {"x.png": b"1", "deep/y.png": b"2"}


def test_payload_of_a_fresh_well_equals_that_of_a_resumed_one_to_the_order_of_keys(tmp_path: Path) -> None:
    # A step that writes the value out would otherwise give other bytes after a kill than without one.
    payload = WellPayload({"z": 1, "a": (1, 2), "m": {"y": 1, "b": 2}}, {})
    saved = save_checkpoint(tmp_path / "A01", key="k", payload=payload)
    loaded = load_checkpoint(tmp_path / "A01", key="k")
    assert loaded is not None
    assert repr(saved.data) == repr(loaded.data)
    assert list(saved.files) == list(loaded.files)


def test_file_that_lies_on_the_disk_is_taken_over(tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    source.write_bytes(b"picture")
    save_checkpoint(tmp_path / "A01", key="k", payload=WellPayload({}, {"x.png": source}))
    source.unlink()
    assert read(load_checkpoint(tmp_path / "A01", key="k")) == {"x.png": b"picture"}


def test_other_key_or_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "A01", key="k") is None
    save_checkpoint(tmp_path / "A01", key="k", payload=PAYLOAD)
    assert load_checkpoint(tmp_path / "A01", key="other") is None


def test_saving_again_replaces_the_well_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "A01", key="k", payload=PAYLOAD)
    save_checkpoint(tmp_path / "A01", key="new", payload=WellPayload({}, {"z.png": b"3"}))
    assert load_checkpoint(tmp_path / "A01", key="k") is None
    assert read(load_checkpoint(tmp_path / "A01", key="new")) == {"z.png": b"3"}
    assert sorted(p.name for p in (tmp_path / "A01").iterdir()) == ["checkpoint.json", "z.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["A01"]


@pytest.mark.parametrize("damage", ["lost", "changed", "truncated document", "no document", "foreign document"])
def test_damaged_checkpoint_is_as_if_it_were_not_there(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "A01"
    save_checkpoint(folder, key="k", payload=PAYLOAD)
    document = folder / "checkpoint.json"
    if damage == "lost":
        (folder / "x.png").unlink()
    elif damage == "changed":
        (folder / "deep" / "y.png").write_bytes(b"3")
    elif damage == "truncated document":
        document.write_bytes(document.read_bytes()[:-5])
    elif damage == "no document":
        document.unlink()
    else:
        document.write_bytes(b"[1, 2]")
    assert load_checkpoint(folder, key="k") is None


def test_value_that_json_lacks_saves_nothing_and_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "A01", key="k", payload=PAYLOAD)
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "A01", key="new", payload=WellPayload({"x": float("nan")}, {}))
    assert load_checkpoint(tmp_path / "A01", key="k") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["A01"]


def test_cleared_checkpoints_are_gone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step" / "A01", key="k", payload=PAYLOAD)
    clear_checkpoints(tmp_path / "step")
    clear_checkpoints(tmp_path / "step")
    assert load_checkpoint(tmp_path / "step" / "A01", key="k") is None
