"""Older detection documents (spec 1.7): annotations per image, R13's flat lists, the filtered section.

A parsed file is converted to our two documents: all detections, and the filtered ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from morphseq_dagster.adopt.context import collect, refusing
from morphseq_dagster.adopt.legacy_ids import translate_image
from morphseq_dagster.adopt.tolerant_json import as_list, as_object, clean, is_number, read_box
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.identifiers import mint_video, parse_image
from morphseq_dagster.morphseq.contracts.detections import (
    Annotation,
    DetectionDocument,
    DetectionEntry,
    FlatDetection,
    HighQuality,
    ImageDetections,
    ModelMetadata,
)
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames

_PROMPT: Final = "individual embryo"
_ARCHITECTURE: Final = "GroundedDINO"
_REMEDY: Final = "let the pipeline detect anew, or mend the named entries"


class _Reader:
    """Reads one document and collects what is wrong with it."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.problems: list[str] = []
        self.architectures: set[str] = set()

    def image_id(self, text: str) -> str | None:
        try:
            ours, parts = translate_image(text)
        except MorphseqError as error:
            self.problems.append(f"{error.found} is no image id")
            return None
        if parts.experiment_id != self.experiment:
            self.problems.append(f"{text} belongs to {parts.experiment_id}")
            return None
        return ours

    def detection(self, value: Any, *, image: str) -> DetectionEntry | None:  # noqa: ANN401 - from a JSON file
        if not isinstance(value, dict):
            self.problems.append(f"{image}: a detection is no object")
            return None
        box = read_box(value.get("box_xyxy", value.get("bbox_xyxy_norm", value.get("bbox"))))
        confidence = value.get("confidence", value.get("score"))
        if isinstance(box, str):
            self.problems.append(f"{image}: {box}")
            return None
        if not is_number(confidence) or not 0 <= float(confidence) <= 1:
            self.problems.append(f"{image}: confidence {confidence!r}")
            return None
        phrase = str(value.get("phrase") or value.get("prompt") or _PROMPT)
        return DetectionEntry(box_xyxy=box, confidence=float(confidence), phrase=phrase)

    def detections(self, values: Any, *, image: str) -> tuple[DetectionEntry, ...]:  # noqa: ANN401 - from a JSON file
        if not isinstance(values, list):
            self.problems.append(f"{image}: detections are no list")
            return ()
        found = [self.detection(value, image=image) for value in values]
        return tuple(entry for entry in found if entry is not None)

    def annotations(self, value: Mapping[str, Any], *, image: str) -> tuple[Annotation, ...]:
        given = value.get("annotations")
        if given is None and isinstance(value.get("detections"), list):
            # R13's minimal form: a flat list, and nothing of the detector.
            given = [{"detections": value["detections"]}]
        if not isinstance(given, list) or not given:
            self.problems.append(f"{image}: no annotation")
            return ()
        return tuple(
            self._annotation(entry, image=image, number=n) for n, entry in enumerate(given) if isinstance(entry, dict)
        )

    def _annotation(self, value: Mapping[str, Any], *, image: str, number: int) -> Annotation:
        found = self.detections(value.get("detections", []), image=image)
        stated = value.get("num_detections")
        if stated is not None and stated != len(as_list(value.get("detections"))):
            self.problems.append(f"{image}: {stated} detections announced, {len(found)} there")
        model, parameters = as_object(value.get("model_metadata")), as_object(value.get("inference_params"))
        prompts = [entry.phrase for entry in found]
        architecture = str(model.get("model_architecture") or _ARCHITECTURE)
        self.architectures.add(architecture)
        return Annotation(
            annotation_id=str(value.get("annotation_id") or f"ann_{image}_{number}"),
            prompt=_text(value.get("prompt")) or (prompts[0] if prompts else None),
            model_metadata=ModelMetadata(
                model_config_path=_base(model.get("model_config_path")),
                model_weights_path=_base(model.get("model_weights_path")),
                model_architecture=architecture,
            ),
            inference_params={str(k): float(v) for k, v in clean(parameters).items() if is_number(v)},
            num_detections=len(found),
            detections=found,
        )


def convert_detections(
    value: Mapping[str, Any], *, experiment: str, frames: OrganizedFrames, where: str
) -> tuple[DetectionDocument, DetectionDocument | None, tuple[str, ...], str]:
    """Convert a parsed detection file.

    Parameters
    ----------
    value
        The file's content.
    experiment
        Experiment that it must be of.
    frames
        Frames that were to be detected in.
    where
        Name of the file for messages.

    Returns
    -------
    tuple
        All detections; the filtered ones, None where the file has no filtered section; warnings; the detector's name.

    Raises
    ------
    PermanentError
        Naming every entry that cannot be read, and frames without any.
    """
    with refusing("a detection document", where=where):
        reader = _Reader(experiment)
        images: dict[str, ImageDetections] = {}
        given = value.get("images")
        for text, entry in given.items() if isinstance(given, dict) else ():
            image = reader.image_id(str(text))
            if image is not None and isinstance(entry, dict):
                images[image] = ImageDetections(annotations=reader.annotations(entry, image=image))
        images = dict(sorted(images.items()))
        reader.problems += _disagreement(images, frames=frames)
        quality = _quality(value, reader=reader)
        collect(reader.problems, expected=f"a detection document of {experiment}", where=where, remedy=_REMEDY)
        several = sum(len(image.annotations) > 1 for image in images.values())
        warnings = (f"{several} images have several annotations; the first of each is used",) if several else ()
        document = DetectionDocument(
            images=images,
            entity_tracker=track(
                "module_2_detection",
                experiment=experiment,
                videos={mint_video(experiment, well=parse_image(image).well) for image in images},
                images=images,
            ),
        )
        name = "+".join(sorted(reader.architectures)) or _ARCHITECTURE
        return document, _filtered(document, quality, experiment=experiment), warnings, name


def _quality(value: Mapping[str, Any], *, reader: _Reader) -> HighQuality | None:
    """The filtered section of this experiment."""
    section = value.get("high_quality_annotations")
    found = section.get(reader.experiment) if isinstance(section, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("filtered", {}), dict):
        return None
    limits = [found.get("confidence_threshold"), found.get("iou_threshold")]
    if not all(is_number(limit) for limit in limits):
        return None
    filtered = {}
    for text, entries in found.get("filtered", {}).items():
        image = reader.image_id(str(text))
        if image is not None:
            filtered[image] = reader.detections(entries, image=image)
    return HighQuality(
        prompt=_text(found.get("prompt")),
        confidence_threshold=float(str(limits[0])),
        iou_threshold=float(str(limits[1])),
        filtered={image: entries for image, entries in sorted(filtered.items()) if entries},
    )


def _filtered(document: DetectionDocument, quality: HighQuality | None, *, experiment: str) -> DetectionDocument | None:
    if quality is None:
        return None
    images = {
        image_id: ImageDetections(
            annotations=image.annotations,
            detections=tuple(
                FlatDetection(bbox_xyxy_norm=d.box_xyxy, score=d.confidence, prompt=quality.prompt)
                for d in quality.filtered.get(image_id, ())
            ),
        )
        for image_id, image in document.images.items()
    }
    return document.model_copy(update={"images": images, "high_quality_annotations": {experiment: quality}})


def _disagreement(images: Mapping[str, ImageDetections], *, frames: OrganizedFrames) -> list[str]:
    unknown, missing = sorted(images.keys() - frames.images.keys()), sorted(frames.images.keys() - images.keys())
    problems = [f"{len(unknown)} images are no frames of the experiment, the first {unknown[0]}"] if unknown else []
    return problems + ([f"{len(missing)} frames were never detected in, the first {missing[0]}"] if missing else [])


def _text(value: Any) -> str | None:  # noqa: ANN401 - from a JSON file
    """A value as text; None for none."""
    return str(value) if value else None


def _base(value: Any) -> str | None:  # noqa: ANN401 - from a JSON file
    """Last part of a path; None for none."""
    return str(value).replace("\\", "/").rpartition("/")[2] if value else None
