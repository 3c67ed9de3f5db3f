"""Organised frames: named by image id, one folder per well, the bytes of the full-focus frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.pictures import encode_jpeg
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.testing.documents import make_ff_images, make_frame
from morphseq_dagster.testing.step_bench import StepBench, read_document

EXPERIMENT = "20250529_ctrl"


def supply_frames(bench: StepBench) -> dict[str, bytes]:
    """Wells A01 (times 3 and 10, given in the wrong order) and B02; path to bytes."""
    pictures, files, frames = {}, {}, []
    for number, (well, time_int) in enumerate((("A01", 10), ("B02", 3), ("A01", 3))):
        data = encode_jpeg(np.full((40, 60), 50 * number, np.uint8), quality=90)
        name = f"{well}_t{time_int:04d}_ch00_stitch.jpg"
        path, entry = bench.supply_picture(bench.layout.folders("ff_images", experiment=EXPERIMENT)[0] / name, data)
        pictures[path], files[path] = data, entry
        frames.append(make_frame(well, time_int, path=path, time_s=time_int * 60.0, um_per_px=3.25))
    bench.supply("ff_images", make_ff_images(EXPERIMENT, tuple(frames), files=files, polarity="inverted"))
    return pictures


def test_images_are_named_by_well_channel_and_frame_number(bench: StepBench) -> None:
    supply_frames(bench)
    manifest = read_document(bench.run("organized_frames"), OrganizedFrames)
    assert set(manifest.images) == {
        "20250529_ctrl_A01_ch00_t0003",
        "20250529_ctrl_A01_ch00_t0010",
        "20250529_ctrl_B02_ch00_t0003",
    }
    entry = manifest.images["20250529_ctrl_A01_ch00_t0010"]
    assert entry.path == (
        "sam2_pipeline_files/raw_data_organized/20250529_ctrl/images/20250529_ctrl_A01/20250529_ctrl_A01_ch00_t0010.jpg"
    )


def test_frame_index_is_the_place_in_time_not_the_frame_number(bench: StepBench) -> None:
    supply_frames(bench)
    manifest = read_document(bench.run("organized_frames"), OrganizedFrames)
    places = {image_id[-8:]: (e.frame_index, e.time_int) for image_id, e in manifest.images.items() if e.well == "A01"}
    assert places == {"00_t0003": (0, 3), "00_t0010": (1, 10)}
    assert list(manifest.videos()["A01"]) == ["20250529_ctrl_A01_ch00_t0003", "20250529_ctrl_A01_ch00_t0010"]


def test_geometry_time_and_polarity_are_carried_over(bench: StepBench) -> None:
    supply_frames(bench)
    manifest = read_document(bench.run("organized_frames"), OrganizedFrames)
    entry = manifest.images["20250529_ctrl_B02_ch00_t0003"]
    assert (entry.height_px, entry.width_px, entry.um_per_px, entry.time_s) == (40, 60, 3.25, 180.0)
    assert manifest.polarity == "inverted"


def test_pictures_keep_their_bytes(bench: StepBench) -> None:
    pictures = supply_frames(bench)
    result = bench.run("organized_frames")
    manifest = read_document(result, OrganizedFrames)
    root: Path = result.staged.staged_primary.parent
    folder = bench.layout.folders("organized_frames", experiment=EXPERIMENT)[0]
    written = {
        (e.well, e.time_int): (root / bench.layout.absolute(e.path).relative_to(folder)).read_bytes()
        for e in manifest.images.values()
    }
    assert written == {(Path(p).name[:3], int(Path(p).name[5:9])): data for p, data in pictures.items()}


def test_picture_that_is_not_the_recorded_one_fails_its_well_alone(bench: StepBench) -> None:
    pictures = supply_frames(bench)
    changed = next(path for path in pictures if "B02" in path)
    bench.layout.absolute(changed).write_bytes(b"another picture")
    result = bench.run("organized_frames")
    assert {entry.well for entry in read_document(result, OrganizedFrames).images.values()} == {"A01"}
    assert result.staged.status == "degraded"
    assert changed in result.staged.wells["B02"].reason


def test_all_wells_failing_fails_the_step_naming_them(bench: StepBench) -> None:
    for path in supply_frames(bench):
        bench.layout.absolute(path).write_bytes(b"another picture")
    with pytest.raises(PermanentError, match=r"2 failed: A01: .*; B02: "):
        bench.run("organized_frames")
