"""Search of the workbook: exact before similar, first folder before second, never a silent choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.plate.workbook import find_workbook

EXPERIMENT = "20250529_36hpf"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    names = [tmp_path / "well_metadata", tmp_path / "plate_metadata"]
    for folder in names:
        folder.mkdir()
    return names


def test_exact_name_in_the_first_folder_wins(folders: list[Path]) -> None:
    for folder in folders:
        (folder / f"{EXPERIMENT}_well_metadata.xlsx").touch()
    (folders[0] / f"{EXPERIMENT}_well_metadata_old.xlsx").touch()
    match = find_workbook(folders, experiment=EXPERIMENT)
    assert (match.path.parent, match.warning) == (folders[0], None)


def test_exact_name_in_the_second_folder_beats_a_similar_one_in_the_first(folders: list[Path]) -> None:
    (folders[0] / f"{EXPERIMENT}_well_metadata_v2.xlsx").touch()
    (folders[1] / f"{EXPERIMENT}_well_metadata.xlsx").touch()
    assert find_workbook(folders, experiment=EXPERIMENT).path.parent == folders[1]


def test_only_similar_name_is_taken_with_a_warning(folders: list[Path]) -> None:
    similar = folders[1] / f"{EXPERIMENT}_well_metadata (1).xlsx"
    similar.touch()
    (folders[1] / f"~${EXPERIMENT}_well_metadata.xlsx").touch()
    (folders[1] / f"{EXPERIMENT}_ctrl_well_metadata.xlsx").touch()
    match = find_workbook(folders, experiment=EXPERIMENT)
    assert match.path == similar
    assert similar.name in (match.warning or "")


def test_several_similar_names_are_an_error_naming_all(folders: list[Path]) -> None:
    names = [folder / f"{EXPERIMENT}_well_metadata_v{i}.xlsx" for i, folder in enumerate(folders)]
    for name in names:
        name.touch()
    with pytest.raises(PermanentError) as caught:
        find_workbook(folders, experiment=EXPERIMENT)
    assert all(str(name) in caught.value.found for name in names)


def test_none_is_an_error_naming_the_expected_path(folders: list[Path], tmp_path: Path) -> None:
    for searched in (folders, [tmp_path / "absent", folders[1]]):
        with pytest.raises(PermanentError) as caught:
            find_workbook(searched, experiment=EXPERIMENT)
        assert str(searched[0] / f"{EXPERIMENT}_well_metadata.xlsx") in caught.value.expected
