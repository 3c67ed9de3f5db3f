"""Older segmentation documents (spec 1.8): masks by video, image and embryo, with or without flags.

Masks are COCO run lengths under any of the names that the lab has used; polygons have lost holes and pixels and are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from morphseq_dagster.adopt.context import collect, refusing
from morphseq_dagster.adopt.legacy_ids import (
    relative_path,
    translate_embryo,
    translate_image,
    translate_snip,
)
from morphseq_dagster.adopt.tolerant_json import as_list, as_object, clean, is_number, read_box
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.identifiers import mint_snip, mint_video, parse_embryo, parse_image, parse_video
from morphseq_dagster.morphseq.contracts.detections import DetectionEntry
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import (
    EmbryoEntry,
    ExperimentSegmentation,
    ImageSegmentation,
    SeedFrameInfo,
    SegmentationDocument,
    SegmentationEntry,
    VideoSegmentation,
)
from morphseq_dagster.segmentation.rle import Rle, measure_area, unpack_runs

_CONFIDENCE: Final = 0.85
"""What every older mask carries (spec 0, fact 5)."""
_RLE: Final = ("rle", "rle_base64")
_REMEDY: Final = "let the pipeline segment anew, or mend the named entries"


def convert_segmentations(
    value: Mapping[str, Any], *, experiment: str, frames: OrganizedFrames, where: str
) -> tuple[SegmentationDocument, bool, tuple[str, ...]]:
    """Convert a parsed segmentation file.

    Parameters
    ----------
    value
        The file's content.
    experiment
        Experiment that it must be of.
    frames
        Frames that were to be segmented.
    where
        Name of the file for messages.

    Returns
    -------
    tuple
        The document; whether it has flags; warnings.

    Raises
    ------
    PermanentError
        Naming every mask and id that cannot be read, polygons included.
    """
    with refusing("a segmentation document", where=where):
        reader = _Reader(experiment)
        experiments = value.get("experiments")
        section = experiments.get(experiment) if isinstance(experiments, dict) else None
        given = section.get("videos") if isinstance(section, dict) else None
        videos: dict[str, VideoSegmentation] = {}
        if not isinstance(given, dict):
            reader.problems.append(f"no videos of {experiment}")
            given = {}
        for text, entry in sorted(given.items()):
            video = reader.video(str(text), entry)
            if video is not None:
                videos[video.video_id] = video
        reader.problems += _unknown(videos, frames=frames)
        flags = reader.flags(value.get("flags"))
        collect(reader.problems, expected=f"a segmentation document of {experiment}", where=where, remedy=_REMEDY)
        document = _document(value, experiment=experiment, videos=videos, flags=flags or {})
        return document, flags is not None, tuple(reader.warnings(videos, frames=frames))


class _Reader:
    """Reads one document and collects what is wrong with it."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.problems: list[str] = []
        self.areas_off = 0

    def video(self, text: str, value: Any) -> VideoSegmentation | None:  # noqa: ANN401 - from a JSON file
        try:
            experiment, well = parse_video(text)
        except MorphseqError:
            self.problems.append(f"{text!r} is no video id")
            return None
        if experiment != self.experiment or not isinstance(value, dict):
            self.problems.append(f"{text} belongs to {experiment}" if isinstance(value, dict) else f"{text}: no object")
            return None
        video_id = mint_video(experiment, well=well)
        if not value.get("sam2_success", True):
            reason = str(value.get("error_message") or "failed in the older run")
            return VideoSegmentation(video_id=video_id, well_id=well, sam2_success=False, error_message=reason)
        images = self._images(value.get("image_ids"), video=video_id)
        embryos = sorted({embryo for image in images.values() for embryo in image.embryos})
        seed = self._seed(value.get("seed_frame_info"), video=video_id, order=list(images))
        return VideoSegmentation(
            video_id=video_id,
            well_id=well,
            num_embryos=int(value["num_embryos"]) if is_number(value.get("num_embryos")) else len(embryos),
            frames_processed=len(images),
            sam2_success=True,
            requires_bidirectional_propagation=bool(value.get("requires_bidirectional_propagation")),
            seed_frame_info=seed,
            image_ids=images,
        )

    def _images(self, value: Any, *, video: str) -> dict[str, ImageSegmentation]:  # noqa: ANN401 - from a JSON file
        if not isinstance(value, dict):
            self.problems.append(f"{video}: images are no object, so there are no masks")
            return {}
        found: dict[str, ImageSegmentation] = {}
        translated = [(self._image_id(str(text), video=video), entry) for text, entry in value.items()]
        ordered = sorted((pair for pair in translated if pair[0] is not None), key=lambda pair: str(pair[0]))
        for index, (image, entry) in enumerate(ordered):
            if image is None or not isinstance(entry, dict):
                self.problems.append(f"{image}: no object")
                continue
            embryos = [self._embryo(str(k), e, image=image) for k, e in as_object(entry.get("embryos")).items()]
            known = {e.embryo_id: e for e in embryos if e is not None}
            found[image] = ImageSegmentation(
                image_id=image,
                frame_index=int(entry["frame_index"]) if is_number(entry.get("frame_index")) else index,
                is_seed_frame=bool(entry.get("is_seed_frame")),
                embryos=dict(sorted(known.items())),
            )
        return found

    def _image_id(self, text: str, *, video: str) -> str | None:
        try:
            image, parts = translate_image(text)
        except MorphseqError:
            self.problems.append(f"{text!r} is no image id")
            return None
        if mint_video(parts.experiment_id, well=parts.well) != video:
            self.problems.append(f"{text} does not belong to {video}")
            return None
        return image

    def _embryo(self, text: str, value: Any, *, image: str) -> EmbryoEntry | None:  # noqa: ANN401 - from a JSON file
        parts = parse_image(image)
        try:
            embryo_id = translate_embryo(text)
            experiment, well, _ = parse_embryo(embryo_id)
            snip_id = mint_snip(embryo_id, frame=parts.frame)
            stated = value.get("snip_id") if isinstance(value, dict) else None
            wrong = (experiment, well) != (parts.experiment_id, parts.well)
            if wrong or (stated is not None and translate_snip(str(stated)) != snip_id):
                self.problems.append(f"{image}: embryo {text} with snip {stated} does not belong here")
                return None
        except MorphseqError as error:
            self.problems.append(f"{image}: {error.found} is no {error.expected.removeprefix('a ')}")
            return None
        if not isinstance(value, dict):
            self.problems.append(f"{image}: embryo {text} is no object")
            return None
        mask = self._mask(value, snip=snip_id)
        if mask is None:
            return None
        confidence = value.get("mask_confidence")
        return EmbryoEntry(
            embryo_id=embryo_id,
            snip_id=snip_id,
            segmentation=mask,
            bbox=mask.bbox,
            mask_confidence=float(confidence) if is_number(confidence) else _CONFIDENCE,
            mask_target="body",
        )

    def _mask(self, embryo: Mapping[str, Any], *, snip: str) -> SegmentationEntry | None:
        value = embryo.get("segmentation")
        if not isinstance(value, dict):
            self.problems.append(f"{snip}: no mask")
            return None
        form = value.get("format") or embryo.get("segmentation_format") or "rle"
        if form not in _RLE or "polygons" in value:
            self.problems.append(f"{snip}: a {form} mask, which has lost holes and single pixels, cannot be adopted")
            return None
        size = value.get("size")
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(is_number(s) and s > 0 for s in size):
            self.problems.append(f"{snip}: size {size!r}")
            return None
        height, width = int(size[0]), int(size[1])
        rle = read_rle(value.get("counts", value.get("data")), size=(height, width))
        box = read_box(value.get("bbox", embryo.get("bbox")))
        if isinstance(rle, str) or isinstance(box, str):
            self.problems.append(f"{snip}: {rle if isinstance(rle, str) else box}")
            return None
        area, stated = measure_area(rle), value.get("area", embryo.get("area"))
        self.areas_off += is_number(stated) and abs(float(stated) - area) > 0.5
        text = rle.to_base64()
        return SegmentationEntry(size=(height, width), counts=text, data=text, area=float(area), bbox=box)

    def _seed(self, value: Any, *, video: str, order: list[str]) -> SeedFrameInfo | None:  # noqa: ANN401 - from JSON
        if not isinstance(value, dict) or not value.get("seed_frame"):
            return None
        image = self._image_id(str(value["seed_frame"]), video=video)
        if image is None:
            return None
        detections = []
        for entry in as_list(value.get("seed_detections")):
            box = read_box(entry.get("box_xyxy", entry.get("bbox_xyxy_norm"))) if isinstance(entry, dict) else "none"
            score = entry.get("confidence", entry.get("score")) if isinstance(entry, dict) else None
            if not isinstance(box, str) and is_number(score):
                phrase = str(entry.get("phrase") or "")
                detections.append(DetectionEntry(box_xyxy=box, confidence=float(score), phrase=phrase))
        index = value.get("seed_frame_index")
        position = int(index) if is_number(index) else order.index(image) if image in order else 0
        return SeedFrameInfo(
            video_id=video,
            seed_frame=image,
            seed_frame_index=position,
            num_embryos=int(value["num_embryos"]) if is_number(value.get("num_embryos")) else len(detections),
            seed_detections=tuple(detections),
            is_first_frame=bool(value.get("is_first_frame", position == 0)),
            embryo_ids=self._embryo_ids(value.get("embryo_ids"), video=video),
            requires_bidirectional_propagation=bool(value.get("requires_bidirectional_propagation")),
        )

    def _embryo_ids(self, value: Any, *, video: str) -> tuple[str, ...]:  # noqa: ANN401 - from a JSON file
        found = []
        for text in as_list(value):
            try:
                found.append(translate_embryo(str(text)))
            except MorphseqError:
                self.problems.append(f"{video}: {text!r} is no embryo id")
        return tuple(found)

    def flags(self, value: Any) -> dict[str, Any] | None:  # noqa: ANN401 - from a JSON file
        """The section of flags under our ids; None when the file has none."""
        if not isinstance(value, dict) or not isinstance(value.get("by_snip"), dict):
            return None
        section: dict[str, Any] = {"qc_meta": {}, "qc_history": [], "by_experiment": {}, "by_video": {}}
        try:
            images = as_object(value.get("by_image"))
            section["by_image"] = {translate_image(str(k))[0]: clean(v) for k, v in sorted(images.items())}
            section["by_snip"] = {translate_snip(str(k)): clean(v) for k, v in sorted(value["by_snip"].items())}
        except MorphseqError as error:
            self.problems.append(f"flags: {error.found}")
        return section

    def warnings(self, videos: Mapping[str, VideoSegmentation], *, frames: OrganizedFrames) -> list[str]:
        problems = [
            f"{v.well_id} failed in the older run: {v.error_message}" for v in videos.values() if not v.sam2_success
        ]
        wells = {mint_video(self.experiment, well=well) for well in frames.videos()} - videos.keys()
        problems += [f"no masks of {', '.join(sorted(wells))}"] if wells else []
        return problems + (
            [f"{self.areas_off} areas differed from their masks and were measured anew"] * bool(self.areas_off)
        )


def read_rle(value: Any, *, size: tuple[int, int]) -> Rle | str:  # noqa: ANN401 - anything from a JSON file
    """Run lengths that fill the picture, from base64 or COCO's plain text; a text says why they are none."""
    if not isinstance(value, str):
        return "no run lengths"
    reasons = []
    for is_base64 in (True, False):
        try:
            rle = Rle.from_base64(value, size=size) if is_base64 else Rle(value.encode("ascii"), size)
            filled = int(unpack_runs(rle.counts).sum())
        except (MorphseqError, UnicodeEncodeError) as error:
            reasons.append(error.found if isinstance(error, MorphseqError) else "text outside ASCII")
            continue
        if filled == size[0] * size[1]:
            return rle
        reasons.append(f"run lengths of {filled} pixels for a picture of {size[0]} x {size[1]}")
    return reasons[0]


def _document(
    value: Mapping[str, Any], *, experiment: str, videos: dict[str, VideoSegmentation], flags: dict[str, Any]
) -> SegmentationDocument:
    images = [image for video in videos.values() for image in video.image_ids.values()]
    embryos = [embryo for image in images for embryo in image.embryos.values()]
    text = "".join(e.segmentation.counts for e in embryos)
    return SegmentationDocument(
        gsam_id=str(value.get("gsam_id") or f"gsam_{hash_bytes(text.encode())[:12]}"),
        seed_annotations_path=relative_path(str(value.get("seed_annotations_path") or "")),
        target_prompt=str(value["target_prompt"]) if value.get("target_prompt") else None,
        experiments={experiment: ExperimentSegmentation(experiment_id=experiment, videos=videos)},
        entity_tracker=track(
            "module_2_segmentation",
            experiment=experiment,
            videos=videos,
            images=[image.image_id for image in images],
            embryos=[embryo.embryo_id for embryo in embryos],
            snips=[embryo.snip_id for embryo in embryos],
        ),
        flags=flags,
    )


def _unknown(videos: Mapping[str, VideoSegmentation], *, frames: OrganizedFrames) -> list[str]:
    images = {image for video in videos.values() for image in video.image_ids}
    unknown = sorted(images - frames.images.keys())
    problems = [f"{len(unknown)} images are no frames of the experiment, the first {unknown[0]}"] if unknown else []
    for video in videos.values():
        for image in video.image_ids.values():
            frame = frames.images.get(image.image_id)
            sizes = {e.segmentation.size for e in image.embryos.values()}
            if frame is not None and sizes - {(frame.height_px, frame.width_px)}:
                problems.append(f"{image.image_id}: masks of another size than the frame")
    return problems
