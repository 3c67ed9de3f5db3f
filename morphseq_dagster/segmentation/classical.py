"""The embedded segmenter: outlines by darkness and edges, identities by assignment; no weights, no GPU.

A well is followed frame by frame from its seed frame; see `cutout` for masks and `tracking` for identities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.detection.classical import ClassicalDetector
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.segmentation.cutout import Earlier, FoundMask, FramePicture, find_mask, prepare_frame
from morphseq_dagster.segmentation.model import FrameSource, TrackedMask, WellTracks, measure_mask_box, scale_box
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings
from morphseq_dagster.segmentation.rle import encode_crop
from morphseq_dagster.segmentation.tracking import Position, choose_seed, clip_detection, match_places


@dataclass(frozen=True)
class _Followed:
    """What is remembered of an embryo: where its box was, and its last mask (in its frame's pixels)."""

    place: Position
    mask: FoundMask


@dataclass(frozen=True)
class ClassicalSegmenter:
    """Segmenter without a learned model; see the module docstring."""

    settings: ClassicalSegmenterSettings = field(default_factory=ClassicalSegmenterSettings)

    @property
    def detector(self) -> ClassicalDetector:
        """Detector that finds chorions again."""
        return ClassicalDetector(settings=self.settings.detector)

    def segment(
        self,
        frames: Sequence[FrameSource],
        *,
        detections: Sequence[Sequence[Detection]],
        um_per_px: float | None,
    ) -> WellTracks:
        """Segment one well; see `Segmenter.segment`.

        One frame is held in memory at a time, beside one mask per embryo. The seed frame is read once.

        Raises
        ------
        PermanentError
            When the numbers of frames and of detection lists differ, or frames differ in size.
        """
        if len(frames) != len(detections):
            raise PermanentError(
                expected="one list of detections per frame",
                found=f"{len(frames)} frames and {len(detections)} lists",
                where="segmentation of a well",
                remedy="make the detections of this experiment again",
            )
        seed = choose_seed(detections)
        if seed is None:
            return WellTracks(None, False, 0, tuple(() for _ in frames))
        results: list[tuple[TrackedMask, ...]] = [() for _ in frames]
        first = self._read(frames, seed.frame_index, shape=None)
        shape = (first.shape[0], first.shape[1])
        start: dict[int, _Followed] = {}
        picture = prepare_frame(first, um_per_px=um_per_px, detector=self.detector)
        for number, detection in enumerate(seed.detections, start=1):
            mask = find_mask(picture, box=detection.box_xyxy, settings=self.settings)
            start[number] = _Followed(Position(scale_box(detection.box_xyxy, shape)), mask)
        results[seed.frame_index] = _store(start, shape=shape)
        for direction in (1, -1):
            last = dict(start)
            stop = len(frames) if direction == 1 else -1
            for index in range(seed.frame_index + direction, stop, direction):
                found = [clip_detection(d) for d in detections[index]]
                if not found:
                    continue
                image = self._read(frames, index, shape=shape)
                picture = prepare_frame(image, um_per_px=um_per_px, detector=self.detector)
                now = self._follow(picture, last=last, detections=found)
                last.update(now)
                results[index] = _store(now, shape=shape)
        return WellTracks(seed.frame_index, seed.frame_index > 0, len(seed.detections), tuple(results))

    def _follow(
        self, picture: FramePicture, *, last: dict[int, _Followed], detections: Sequence[Detection]
    ) -> dict[int, _Followed]:
        places = [Position(scale_box(d.box_xyxy, picture.shape)) for d in detections]
        matched = match_places({n: f.place for n, f in last.items()}, places)
        now: dict[int, _Followed] = {}
        for number, index in matched.items():
            before, after = last[number].place.centre, places[index].centre
            earlier = Earlier(last[number].mask, moved=(after[0] - before[0], after[1] - before[1]))
            mask = find_mask(picture, box=detections[index].box_xyxy, settings=self.settings, earlier=earlier)
            now[number] = _Followed(places[index], mask)
        return now

    def _read(self, frames: Sequence[FrameSource], index: int, *, shape: tuple[int, int] | None) -> NDArray[np.uint8]:
        image = frames[index].read()
        if shape is not None and image.shape != shape:
            raise PermanentError(
                expected=f"frames of one size, {shape} as in the seed frame",
                found=f"{image.shape}",
                where=f"frame {index} of the well",
                remedy="remove or repair the frame; a well's frames must not change size",
            )
        return image

    def identity(self) -> BackendIdentity:
        """Name and version; there are no weights."""
        return BackendIdentity(name="classical", version="1")


def _store(followed: dict[int, _Followed], *, shape: tuple[int, int]) -> tuple[TrackedMask, ...]:
    stored = []
    for number in sorted(followed):
        found = followed[number].mask
        stored.append(
            TrackedMask(
                embryo_number=number,
                rle=encode_crop(found.crop, top=found.top, left=found.left, size=shape),
                box_xyxy=measure_mask_box(found.crop, top=found.top, left=found.left, size=shape),
                area_px=int(np.count_nonzero(found.crop)),
                mask_target=found.target,
                confidence=found.confidence,
            )
        )
    return tuple(stored)
