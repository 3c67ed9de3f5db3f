"""All detections: every picture has its annotation, also where nothing was found; nothing in it tells the time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from morphseq_dagster.backends import Backend, BackendIdentity
from morphseq_dagster.detection.backends import DETECTORS, Detection
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.morphseq.contracts.detections import DetectionDocument
from morphseq_dagster.parameters import Parameters
from morphseq_dagster.testing.documents import lay_frames
from morphseq_dagster.testing.step_bench import StepBench, read_document
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root, run_experiment

EXPERIMENT = "20250529_ctrl"


def draw_disc(*, row: int, column: int) -> NDArray[np.uint8]:
    """Field of 300 x 400 px with a dark disc of 600 um in it at 6 um per pixel."""
    rng = np.random.default_rng(7)
    picture = np.full((300, 400), 190.0) + rng.normal(0, 1.5, (300, 400))
    disc = np.zeros((300, 400), np.float32)
    cv2.circle(disc, (column, row), 50, 1.0, -1)
    grain = cv2.GaussianBlur(rng.normal(0, 25, (300, 400)).astype(np.float32), (0, 0), 2)
    picture += cv2.GaussianBlur(disc, (0, 0), 1.5) * (-70 + grain)
    return picture.clip(0, 255).astype(np.uint8)


EMPTY = (np.full((300, 400), 190.0) + np.random.default_rng(3).normal(0, 1.5, (300, 400))).astype(np.uint8)


def test_embryo_is_boxed_and_an_empty_picture_is_said_to_hold_none(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: draw_disc(row=120, column=150)}, "A02": {0: EMPTY}}, um_per_px=6.0)
    result = bench.run("gdino_raw")
    document = read_document(result, DetectionDocument)
    (annotation,) = document.images[f"{EXPERIMENT}_A01_ch00_t0000"].annotations
    assert annotation.num_detections == len(annotation.detections) == 1
    box = annotation.detections[0].box_xyxy
    # the disc: columns 100..200 of 400, rows 70..170 of 300
    assert box == pytest.approx((100 / 400, 70 / 300, 200 / 400, 170 / 300), abs=0.03)
    (nothing,) = document.images[f"{EXPERIMENT}_A02_ch00_t0000"].annotations
    assert (nothing.num_detections, nothing.detections) == (0, ())
    assert result.staged.counts == {"images": 2, "detections": 1, "wells_computed": 2}


def test_inverted_pictures_give_the_boxes_of_their_positives(bench: StepBench, tmp_path: Path) -> None:
    picture = draw_disc(row=140, column=220)
    boxes = []
    for number, (pixels, polarity) in enumerate(((picture, "as_acquired"), (255 - picture, "inverted"))):
        other = StepBench(tmp_path / f"bench{number}", experiment=EXPERIMENT)
        lay_frames(other, {"A01": {0: pixels}}, um_per_px=6.0, polarity=polarity)
        document = read_document(other.run("gdino_raw"), DetectionDocument)
        boxes.append(document.images[f"{EXPERIMENT}_A01_ch00_t0000"].annotations[0].detections[0].box_xyxy)
    # JPEG at quality 100 may move an edge by a pixel.
    assert boxes[1] == pytest.approx(boxes[0], abs=2 / 300)


def test_annotation_names_the_backend_and_no_prompt_that_it_never_read(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: EMPTY}}, um_per_px=6.0)
    result = bench.run("gdino_raw")
    (image,) = read_document(result, DetectionDocument).images.values()
    annotation = image.annotations[0]
    assert (annotation.prompt, annotation.inference_params) == (None, {})
    assert annotation.model_metadata.model_architecture == "classical"
    assert annotation.model_metadata.weights_sha256 is None
    backend = result.staged.backend
    assert backend is not None
    assert (backend.name, backend.weights_sha256) == ("classical", None)


def test_annotation_ids_come_from_content_and_differ_between_pictures_and_recipes(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: EMPTY, 1: EMPTY}}, um_per_px=6.0)

    def ids(**recipe: object) -> list[str]:
        document = read_document(bench.run("gdino_raw", recipe=recipe), DetectionDocument)
        return [image.annotations[0].annotation_id for image in document.images.values()]

    first = ids()
    assert first == ids()
    assert len(set(first)) == 2
    assert first == ids(groundingdino={"prompt": "embryo"})
    assert not set(first) & set(ids(classical={"rim_mad": 9.0}))


class ToyParameters(Parameters):
    """Parameters of the toy detector."""

    prompt: str = "letter"
    box_threshold: float = 0.5
    side: float = 0.25


@dataclass(frozen=True)
class ToyDetector:
    """Finds one box in the corner of every picture."""

    settings: ToyParameters
    weights: Path

    def detect(self, image: NDArray[np.uint8], *, um_per_px: float | None) -> tuple[Detection, ...]:
        assert image.ndim == 2
        assert um_per_px is not None
        return (Detection((0.0, 0.0, self.settings.side, self.settings.side), 0.9, self.settings.prompt),)

    def identity(self) -> BackendIdentity:
        return BackendIdentity(name="toy", version="1", weights_sha256=hash_file(self.weights))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Backend("toy", "Boxes.", parameters=ToyParameters, loader=f"{__name__}:ToyDetector", weights="gdino")
    monkeypatch.setitem(DETECTORS.entries, "toy", entry)


@pytest.mark.usefixtures("toy")
def test_detector_entered_in_one_place_runs_from_a_recipe_with_its_parameters_and_weights(
    frames_root: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "toy.pt"
    weights.write_bytes(b"1")
    workspace = replace(open_data_root(frames_root), weights={"gdino": weights})
    path = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    path.parent.mkdir(exist_ok=True)
    before = workspace.request(workspace.pipeline.spec("gdino_raw"), experiment=FRAMES_EXPERIMENT).key

    path.write_text("[gdino_raw.toy]\nside = 0.125\n")
    assert workspace.request(workspace.pipeline.spec("gdino_raw"), experiment=FRAMES_EXPERIMENT).key == before

    path.write_text('[gdino_raw]\nbackend = "toy"\nprompt = "word"\n[gdino_raw.toy]\nside = 0.125\n')
    run = run_experiment(workspace, FRAMES_EXPERIMENT, until="gdino_detections")
    record = run.records["gdino_raw"]
    assert record.recipe == {
        "max_failed_share": 0.5,
        "backend": "toy",
        "toy": {"prompt": "word", "box_threshold": 0.5, "side": 0.125},
    }
    assert record.backend == BackendIdentity(name="toy", version="1", weights_sha256=hash_file(weights))
    assert [(e.name, e.sha256) for e in record.inputs][1:] == [("gdino_weights", hash_file(weights))]
    data = workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT).read_bytes()
    for image in DetectionDocument.model_validate_json(data).images.values():
        (annotation,) = image.annotations
        assert (annotation.prompt, annotation.inference_params) == ("word", {"box_threshold": 0.5})
        assert [d.box_xyxy for d in annotation.detections] == [(0.0, 0.0, 0.125, 0.125)]
    data = workspace.output("gdino_detections", experiment=FRAMES_EXPERIMENT).read_bytes()
    assert DetectionDocument.model_validate_json(data).high_quality_annotations[FRAMES_EXPERIMENT].prompt == "word"


def test_document_of_a_run_carries_no_time_host_or_place(finished_frames: Path) -> None:
    workspace = open_data_root(finished_frames)
    data = json.loads(workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT).read_bytes())
    assert data["file_info"] == {"creation_time": None, "last_updated": None, "script_version": "morphseq_dagster"}
    assert all(
        a["timestamp"] is None and a["model_metadata"]["loading_timestamp"] is None
        for image in data["images"].values()
        for a in image["annotations"]
    )
    assert data["high_quality_annotations"] == {}
    assert str(finished_frames) not in json.dumps(data)


def test_failed_well_is_named_and_the_others_are_detected(bench: StepBench) -> None:
    manifest = lay_frames(bench, {"A01": {0: EMPTY}, "A02": {0: EMPTY}}, um_per_px=6.0)
    path = manifest.images[f"{EXPERIMENT}_A02_ch00_t0000"].path
    bench.layout.absolute(path).unlink()
    result = bench.run("gdino_raw")
    document = read_document(result, DetectionDocument)
    assert list(document.images) == [f"{EXPERIMENT}_A01_ch00_t0000"]
    assert path in document.failed_wells["A02"]
    assert result.staged.status == "degraded"
