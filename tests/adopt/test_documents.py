from __future__ import annotations

import base64
import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.adopt.detections import convert_detections
from morphseq_dagster.adopt.metadata import convert_metadata
from morphseq_dagster.adopt.segmentations import convert_segmentations, read_rle
from morphseq_dagster.adopt.tolerant_json import clean, read_box
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.segmentation.rle import Rle, encode

EXP = "20240418"
# The spec's own vector (3.3): rows 1-3 x columns 2-5 of 6 x 8, and the pixel (4, 3).
MASK = np.zeros((6, 8), dtype=np.bool_)
MASK[1:4, 2:6] = True
MASK[4, 3] = True
COUNTS = "PTMzMU9PMTA7"
BOX = [0.25, 1 / 6, 0.625, 4 / 6]


def frames(times: int = 2, wells: tuple[str, ...] = ("A01",)) -> OrganizedFrames:
    images = {
        f"{EXP}_{well}_ch00_t{t:04d}": ImageEntry(
            path=f"p/{EXP}_{well}/{EXP}_{well}_ch00_t{t:04d}.jpg", well=well, time_int=t, channel=0, frame_index=t,
            height_px=6, width_px=8, um_per_px=2.0, time_s=60.0 * t,
        )
        for well in wells for t in range(times)
    }  # fmt: skip
    return OrganizedFrames(experiment_id=EXP, files={}, microscope="YX1", polarity="inverted", images=images)


def detections() -> dict[str, Any]:
    entry = {"box_xyxy": [0.1, 0.2, 0.3, 1.01], "confidence": 0.9, "phrase": "individual embryo"}
    annotation = {
        "annotation_id": "ann_1", "prompt": "individual embryo", "num_detections": 1, "detections": [entry],
        "model_metadata": {"model_weights_path": "/x/w.pth", "model_architecture": "GroundedDINO"},
        "inference_params": {"box_threshold": 0.35}, "timestamp": "2025",
    }  # fmt: skip
    empty = {**annotation, "num_detections": 0, "detections": []}
    quality = {"prompt": "individual embryo", "confidence_threshold": 0.45, "iou_threshold": 0.5, "timestamp": "2025"}
    first, second = f"{EXP}_A01_t0000", f"{EXP}_A01_t0001"
    return {
        "images": {first: {"annotations": [annotation]}, second: {"annotations": [empty]}},
        "high_quality_annotations": {EXP: {**quality, "filtered": {first: [entry]}}},
    }


def segmentations(**segmentation: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    mask = {"counts": COUNTS, "size": [6, 8], "format": "rle", "area": 13.0, "bbox": BOX, **segmentation}
    embryo = {"embryo_id": f"{EXP}_A01_e01", "snip_id": f"{EXP}_A01_e01_s0000", "segmentation": mask}
    video = {
        "video_id": f"{EXP}_A01", "well_id": "A01", "num_embryos": 1, "sam2_success": True,
        "seed_frame_info": {"seed_frame": f"{EXP}_A01_t0000", "seed_frame_index": 0, "embryo_ids": [f"{EXP}_A01_e01"]},
        "image_ids": {f"{EXP}_A01_t0000": {"is_seed_frame": True, "embryos": {f"{EXP}_A01_e01": embryo}}},
    }  # fmt: skip
    flags = {"by_snip": {f"{EXP}_A01_e01_s0000": {"MASK_ON_EDGE": [{"x": 1}]}}, "by_image": {}}
    return {"experiments": {EXP: {"videos": {f"{EXP}_A01": video}}}, "flags": flags, "gsam_id": "gsam_1"}


def convert(value: dict[str, Any], wells: tuple[str, ...] = ("A01",)) -> Any:  # noqa: ANN401 - a triple
    return convert_segmentations(value, experiment=EXP, frames=frames(wells=wells), where="file")


def test_detections_keep_annotations_and_gain_the_flat_list() -> None:
    raw, filtered, warnings, name = convert_detections(detections(), experiment=EXP, frames=frames(), where="f")
    first = f"{EXP}_A01_ch00_t0000"
    assert (warnings, name) == ((), "GroundedDINO")
    annotation = raw.images[first].annotations[0]
    assert annotation.detections[0].box_xyxy == (0.1, 0.2, 0.3, 1.0)  # a hundredth outside is clipped
    assert annotation.model_metadata.model_weights_path == "w.pth"
    assert annotation.timestamp is None
    assert raw.high_quality_annotations == {}
    assert filtered is not None
    assert [d.score for d in filtered.images[first].detections] == [0.9]
    assert list(filtered.high_quality_annotations[EXP].filtered) == [first]
    assert raw.images[f"{EXP}_A01_ch00_t0001"].annotations[0].num_detections == 0


def test_the_flat_form_gives_detections_and_no_filtered_ones() -> None:
    flat = {"bbox_xyxy_norm": [0, 0, 1, 1], "score": 0.5, "prompt": "embryo"}
    value = {"images": {image: {"detections": [flat]} for image in frames().images}}
    raw, filtered, _, _ = convert_detections(value, experiment=EXP, frames=frames(), where="f")
    assert filtered is None
    assert [d.phrase for i in raw.images.values() for d in i.annotations[0].detections] == ["embryo", "embryo"]


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("box_xyxy", [10, 20, 300, 400], "not in fractions"),
        ("box_xyxy", [0.5, 0.2, 0.1, 0.4], "turned round"),
        ("confidence", 7, "confidence 7"),
        ("confidence", None, "confidence None"),
    ],
)
def test_a_detection_that_cannot_be_read_is_named(key: str, value: object, found: str) -> None:
    document = detections()
    document["images"][f"{EXP}_A01_t0000"]["annotations"][0]["detections"][0][key] = value
    with pytest.raises(PermanentError, match=found):
        convert_detections(document, experiment=EXP, frames=frames(), where="f")


def test_frames_without_detections_and_strange_images_are_all_named() -> None:
    document = detections()
    document["images"][f"{EXP}_B01_t0000"] = document["images"].pop(f"{EXP}_A01_t0001")
    document["images"]["20240419_A01_t0000"] = {}
    with pytest.raises(PermanentError) as caught:
        convert_detections(document, experiment=EXP, frames=frames(), where="f")
    assert "belongs to 20240419" in caught.value.found
    assert "no frames of the experiment" in caught.value.found
    assert "never detected in" in caught.value.found


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"format": "rle_base64"},
        {"counts": None, "data": COUNTS},
        {"counts": base64.b64decode(COUNTS).decode(), "format": "rle"},
        {"area": None},
    ],
)
def test_masks_of_every_form_are_the_same_mask(form: dict[str, Any]) -> None:
    value = segmentations()
    mask = value["experiments"][EXP]["videos"][f"{EXP}_A01"]["image_ids"][f"{EXP}_A01_t0000"]["embryos"]
    entry = mask[f"{EXP}_A01_e01"]["segmentation"]
    entry.update(form)
    for name in [name for name, told in form.items() if told is None]:
        del entry[name]
    document, flagged, warnings = convert(value)
    image = document.experiments[EXP].videos[f"{EXP}_A01"].image_ids[f"{EXP}_A01_ch00_t0000"]
    found = image.embryos[f"{EXP}_A01_e01"]
    assert (found.segmentation.counts, found.segmentation.data, found.segmentation.area) == (COUNTS, COUNTS, 13.0)
    assert found.snip_id == f"{EXP}_A01_e01_t0000"
    assert (found.mask_confidence, found.mask_target) == (0.85, "body")
    assert flagged
    assert list(document.flags["by_snip"]) == [f"{EXP}_A01_e01_t0000"]
    assert warnings == ()


def test_a_box_beside_the_mask_is_read() -> None:
    value = segmentations()
    embryo = value["experiments"][EXP]["videos"][f"{EXP}_A01"]["image_ids"][f"{EXP}_A01_t0000"]["embryos"][
        f"{EXP}_A01_e01"
    ]
    embryo["bbox"] = embryo["segmentation"].pop("bbox")
    found = convert(value)[0].experiments[EXP].videos[f"{EXP}_A01"].image_ids[f"{EXP}_A01_ch00_t0000"].embryos
    assert found[f"{EXP}_A01_e01"].bbox == pytest.approx(tuple(BOX))


@pytest.mark.parametrize(
    ("form", "found"),
    [
        ({"format": "polygon", "polygons": [[1, 1, 2, 2, 3, 1]]}, "a polygon mask"),
        ({"counts": "YDE="}, "of another size|another|48"),
        ({"counts": "!!"}, "not base64|alphabet"),
        ({"size": [60, 80]}, "48 pixels for a picture of 60 x 80"),
        ({"bbox": [10, 10, 20, 20]}, "not in fractions"),
    ],
)
def test_a_mask_that_cannot_be_adopted_says_why(form: dict[str, Any], found: str) -> None:
    if form == {"counts": "YDE="}:  # an empty mask is a mask: it fills the picture with nothing
        assert convert(segmentations(**form))[0].entity_tracker.entities.snips == (f"{EXP}_A01_e01_t0000",)
        return
    with pytest.raises(PermanentError, match=found):
        convert(segmentations(**form))


def test_an_area_that_disagrees_is_measured_anew_and_told() -> None:
    document, _, warnings = convert(segmentations(area=99.0))
    image = document.experiments[EXP].videos[f"{EXP}_A01"].image_ids[f"{EXP}_A01_ch00_t0000"]
    assert image.embryos[f"{EXP}_A01_e01"].segmentation.area == 13.0
    assert warnings == ("1 areas differed from their masks and were measured anew",)


def test_failed_and_absent_wells_are_told() -> None:
    value = segmentations()
    value["experiments"][EXP]["videos"][f"{EXP}_B01"] = {"sam2_success": False, "error_message": "NameError"}
    document, _, warnings = convert(value, wells=("A01", "B01", "C01"))
    assert not document.experiments[EXP].videos[f"{EXP}_B01"].sam2_success
    assert warnings == ("B01 failed in the older run: NameError", f"no masks of {EXP}_C01")


def test_an_embryo_under_the_wrong_well_is_refused() -> None:
    value = segmentations()
    images = value["experiments"][EXP]["videos"][f"{EXP}_A01"]["image_ids"]
    images[f"{EXP}_A01_t0000"]["embryos"][f"{EXP}_B07_e01"] = {"segmentation": {}}
    with pytest.raises(PermanentError, match="does not belong here"):
        convert(value)


def test_a_document_without_flags_says_so() -> None:
    value = segmentations()
    del value["flags"]
    assert convert(value)[1] is False


@pytest.mark.parametrize("as_list", [True, False])
def test_metadata_with_images_as_list_or_object(as_list: bool) -> None:
    first, second = f"{EXP}_A01_t0000", f"{EXP}_A01_ch00_t0001"
    info = {"Height (um)": 2717.581, "Time (s)": float("nan"), "microscope": "nan"}
    images: Any = [first, second] if as_list else {first: {"raw_image_data_info": info}, second: {}}
    video = {
        "image_ids": images,
        "genotype": "nan",
        "temperature": "28.5",
        "mp4_path": "/lab/sam2_pipeline_files/a.mp4",
    }
    value = {"experiments": {EXP: {"videos": {f"{EXP}_A01": video}}}}
    document, warnings = convert_metadata(value, experiment=EXP, frames=frames(), where="f")
    found = document.experiments[EXP].videos[f"{EXP}_A01"]
    assert (found.genotype, found.temperature, found.mp4_path) == (None, 28.5, "sam2_pipeline_files/a.mp4")
    assert list(found.image_ids) == [f"{EXP}_A01_ch00_t0000", second]
    told = found.image_ids[f"{EXP}_A01_ch00_t0000"].raw_image_data_info
    if as_list:
        assert (told["Height (px)"], told["Height (um)"], told["raw_time_s"]) == (6, 12.0, 0.0)
    else:
        assert told == {"Height (um)": 2717.581, "Time (s)": None, "microscope": None}
    assert warnings == (f"geometry and time of {2 if as_list else 1} images were taken from the frames",)


def test_metadata_without_a_well_that_has_frames_is_refused() -> None:
    value = {"experiments": {EXP: {"videos": {}}}}
    with pytest.raises(PermanentError, match="well A01 has frames and no entry"):
        convert_metadata(value, experiment=EXP, frames=frames(), where="f")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def metadata() -> dict[str, Any]:
    images = {image: {"raw_image_data_info": {"Height (um)": 1.0}} for image in frames().images}
    return {"experiments": {EXP: {"videos": {f"{EXP}_A01": {"image_ids": images, "mp4_path": "/a/b.mp4"}}}}}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - any JSON
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, v in inner for p in places(v, (*path, key)))][0 if path else 1 :]


_NONSENSE: list[Any] = [None, True, 7, -1e300, float("nan"), "x", "", [], [1], ["x"], {}, {"a": 1}, {"a": {"b": []}}]


@pytest.mark.parametrize(
    ("make", "read"),
    [(segmentations, convert_segmentations), (detections, convert_detections), (metadata, convert_metadata)],
)
def test_nonsense_anywhere_is_converted_or_refused(make: Any, read: Any) -> None:  # noqa: ANN401 - pairs of functions
    """Readers answer nonsense with a word on it, never with another exception."""
    for *path, last in places(make()):
        for nonsense in _NONSENSE:
            value = make()
            place = value
            for key in path:
                place = place[key]
            place[last] = copy.deepcopy(nonsense)
            try:
                read(value, experiment=EXP, frames=frames(), where="f")
            except PermanentError:
                pass
            except Exception as error:
                raise AssertionError(f"{[*path, last]} = {nonsense!r}: {type(error).__name__}: {error}") from error


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_run_lengths_are_read_from_both_texts(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    rle = encode(np.asarray(mask, dtype=np.bool_))
    size = (height, width)
    assert read_rle(rle.to_base64(), size=size) == rle
    plain = read_rle(rle.counts.decode("ascii"), size=size)
    # A plain text may by chance be base64 of other runs; then it must at least fill the picture.
    assert isinstance(plain, Rle)


@given(_JSON)
def test_clean_leaves_no_number_that_json_lacks(value: object) -> None:
    import json

    json.dumps(clean(value), allow_nan=False)


@given(st.lists(st.floats(allow_nan=True), max_size=5) | _JSON)
def test_a_box_is_inside_the_picture_or_refused(value: object) -> None:
    box = read_box(value)
    if not isinstance(box, str):
        assert all(0 <= part <= 1 for part in box)
        assert box[0] <= box[2]
        assert box[1] <= box[3]
