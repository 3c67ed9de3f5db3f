"""Tiles that do not show their own place take the plate's usual one; plates without such tiles are as before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from morphseq_dagster.demo.microscope import write_keyence_tiff
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.imaging.keyence import KeyenceSource
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.sources import FocusedFrame, RawFrame
from morphseq_dagster.imaging.stitching import TileStep
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.experiments import open_data_root, read_artifacts, run_experiment

EXPERIMENT = "20250520_tiles"
SHAPE = (120, 160)
# Nominal is 112 columns; this stage goes 104 and climbs 3 rows.
STEP = (3, 104)
NOMINAL = (0, 112)
JITTER = {"A01": (0, 0), "A02": (1, -1), "A03": (-1, 1), "A04": (0, 1)}


def write_well(workspace: Workspace, well: str, *, blank: Iterable[tuple[int, int]] = (), tiles: int = 3) -> None:
    """Two times of a well in one plane; tiles (time, number) in `blank` show nothing but the lamp and noise."""
    number = list(JITTER).index(well)
    rng = np.random.default_rng(number)
    raw = raw_folder(workspace.layout, "Keyence", experiment=EXPERIMENT) / f"XY{number + 1:02d}"
    (raw / f"_{well}").mkdir(parents=True, exist_ok=True)
    jitter = JITTER[well]
    for time in (1, 2):
        scene = ndimage.gaussian_filter(rng.standard_normal((150, 400)), 1.5)
        scene = 120 + 25 * scene / scene.std()
        for tile in range(tiles):
            row, column = 8 + tile * (STEP[0] + jitter[0]), 8 + tile * (STEP[1] + jitter[1])
            seen = scene[row : row + SHAPE[0], column : column + SHAPE[1]]
            if (time, tile + 1) in blank:
                seen = np.full(SHAPE, 190.0)
            pixels = np.clip(np.rint(seen + rng.normal(0, 1, SHAPE)), 0, 255).astype(np.uint8)
            folder = raw / f"T{time:04d}"
            folder.mkdir(exist_ok=True)
            write_keyence_tiff(
                folder / f"embryo__XY{number + 1:02d}_{tile + 1:05d}_Z001_CH1.tif",
                pixels=pixels,
                um_per_px=3.0,
                time_s=60.0 * time,
            )


def publish(workspace: Workspace, *, force: bool = False) -> tuple[FfImages, Record]:
    record = run_experiment(workspace, EXPERIMENT, until="ff_images", force=force).records["ff_images"]
    path = workspace.output("ff_images", experiment=EXPERIMENT)
    return parse_document(FfImages, path.read_bytes(), where=str(path)), record


def tiles_of(manifest: FfImages, well: str, *, time: int) -> list[tuple[float, float, str]]:
    (frame,) = [f for f in manifest.frames if (f.well, f.time_int) == (well, time)]
    return [(tile.row_px, tile.column_px, tile.source) for tile in frame.tiles]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_data_root(tmp_path / "root")


def write_plate(workspace: Workspace) -> None:
    """A03 shows nothing in its third tile at time 2, A04 nothing at all at time 1."""
    write_well(workspace, "A01")
    write_well(workspace, "A02")
    write_well(workspace, "A03", blank=[(2, 3)])
    write_well(workspace, "A04", blank=[(1, 1), (1, 2), (1, 3)])


def test_tiles_that_show_nothing_take_the_median_step_of_the_plate(workspace: Workspace) -> None:
    write_plate(workspace)
    manifest, record = publish(workspace)
    # First steps, measured seven times: rows 3 3 4 4 2 2 3, columns 104 104 103 103 105 105 105; median 3, 104.
    # Second steps, measured six times: rows 3 3 4 4 2 3, columns 104 104 103 103 105 105; median 3, 104.
    assert tiles_of(manifest, "A04", time=1) == [(0, 0, "reference"), (3, 104, "plate"), (6, 208, "plate")]
    # A03's own steps are (2, 105): its second tile is measured, and within 2 px the third is right too (4, 210).
    assert tiles_of(manifest, "A03", time=2) == [(0, 0, "reference"), (2, 105, "measured"), (5, 209, "plate")]
    assert tiles_of(manifest, "A03", time=1) == [(0, 0, "reference"), (2, 105, "measured"), (4, 210, "measured")]
    assert tiles_of(manifest, "A04", time=2) == [(0, 0, "reference"), (3, 105, "measured"), (6, 210, "measured")]
    assert record.status == "ok"
    assert record.counts["wells_computed"] == 4


def test_wells_whose_tiles_all_show_their_place_keep_their_key_and_bytes(workspace: Workspace, tmp_path: Path) -> None:
    write_plate(workspace)
    _, record = publish(workspace)
    trusted = open_data_root(tmp_path / "trusted")
    for well in JITTER:
        write_well(trusted, well)
    manifest, other = publish(trusted)
    assert {tile.source for frame in manifest.frames for tile in frame.tiles} == {"reference", "measured"}
    assert other.counts["wells_computed"] == 4
    assert [record.wells[well].key == other.wells[well].key for well in JITTER] == [True, True, False, False]
    pictures, others = (
        {name: data for name, data in read_artifacts(w, EXPERIMENT).items() if name.endswith(".jpg")}
        for w in (workspace, trusted)
    )
    # A frame of a repaired well that showed all its tiles is as it would have been alone.
    same = [name.rpartition("/")[2][:9] for name in sorted(pictures) if pictures[name] == others[name]]
    assert same == ["A01_t0001", "A01_t0002", "A02_t0001", "A02_t0002", "A03_t0001", "A04_t0002"]


def test_plate_that_shows_nothing_keeps_the_nominal_steps(workspace: Workspace) -> None:
    everything = [(time, tile) for time in (1, 2) for tile in (1, 2, 3)]
    for well in ("A01", "A02"):
        write_well(workspace, well, blank=everything)
    manifest, record = publish(workspace)
    assert tiles_of(manifest, "A02", time=2) == [
        (0, 0, "reference"),
        (*NOMINAL, "prior"),
        (0, 2 * NOMINAL[1], "prior"),
    ]
    assert record.counts["wells_computed"] == 2


def test_step_that_no_well_shows_keeps_the_nominal_one_beside_the_plates(workspace: Workspace) -> None:
    write_well(workspace, "A01", blank=[(1, 3), (2, 3)])
    write_well(workspace, "A02", blank=[(1, 2), (1, 3), (2, 3)])
    manifest, _ = publish(workspace)
    assert tiles_of(manifest, "A01", time=1)[1:] == [(3, 104, "measured"), (3, 104 + NOMINAL[1], "prior")]
    # Median of (3, 104) twice and A02's own (4, 103) once.
    assert tiles_of(manifest, "A02", time=1)[1:] == [(3, 104, "plate"), (3, 104 + NOMINAL[1], "prior")]


def test_plate_of_single_tiles_is_computed_once(workspace: Workspace) -> None:
    for well in ("A01", "A02"):
        write_well(workspace, well, tiles=1, blank=[(1, 1)])
    manifest, record = publish(workspace)
    assert tiles_of(manifest, "A01", time=1) == [(0, 0, "reference")]
    assert record.counts["wells_computed"] == 2


def test_repaired_well_costs_itself_alone_while_the_median_stays(workspace: Workspace) -> None:
    write_plate(workspace)
    before = publish(workspace)[1]
    # Without A02's tile the second steps are rows 3 3 4 2 3, columns 104 104 103 105 105: the medians stay.
    write_well(workspace, "A02", blank=[(1, 3)])
    manifest, record = publish(workspace)
    assert tiles_of(manifest, "A02", time=1)[1:] == [(4, 103, "measured"), (7, 207, "plate")]
    assert tiles_of(manifest, "A04", time=1)[1:] == [(3, 104, "plate"), (6, 208, "plate")]
    assert [well for well in JITTER if record.wells[well].key != before.wells[well].key] == ["A02"]
    assert record.counts["wells_computed"] == 1


@pytest.mark.parametrize("change", ["other median", "nothing left", "mended"])
def test_plate_that_changed_gives_what_a_fresh_run_gives(workspace: Workspace, tmp_path: Path, change: str) -> None:
    everything = [(time, tile) for time in (1, 2) for tile in (1, 2, 3)]
    write_plate(workspace)
    publish(workspace)
    fresh = open_data_root(tmp_path / "fresh")
    write_plate(fresh)
    for w in (workspace, fresh):
        if change == "other median":
            write_well(w, "A01", blank=everything)
            write_well(w, "A02", blank=everything)
        elif change == "nothing left":
            for well in JITTER:
                write_well(w, well, blank=everything)
        else:
            write_well(w, "A03")
            write_well(w, "A04")
    publish(workspace)
    publish(fresh)
    assert read_artifacts(workspace, EXPERIMENT) == read_artifacts(fresh, EXPERIMENT)


def test_well_that_fails_the_second_time_is_a_failed_well(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plate(workspace)
    focus = KeyenceSource.full_focus

    def fail(
        self: KeyenceSource, frame: RawFrame, *, settings: FocusSettings, plate_steps: Sequence[TileStep | None] = ()
    ) -> FocusedFrame:
        if plate_steps and frame.well == "A03":
            raise OSError("gone meanwhile")
        return focus(self, frame, settings=settings, plate_steps=plate_steps)

    monkeypatch.setattr(KeyenceSource, "full_focus", fail)
    manifest, record = publish(workspace)
    assert list(manifest.failed_wells) == ["A03"]
    assert {frame.well for frame in manifest.frames} == {"A01", "A02", "A04"}
    assert record.status == "degraded"
    assert record.wells["A04"].status == "ok"


def test_forced_run_gives_the_same_bytes(workspace: Workspace) -> None:
    write_plate(workspace)
    first, record = publish(workspace)
    again, forced = publish(workspace, force=True)
    assert again == first
    assert forced.wells == record.wells
