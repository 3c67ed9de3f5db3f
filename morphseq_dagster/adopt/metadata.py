"""Older experiment metadata (spec 1.6): videos and images, `image_ids` as a list or as an object.

Which images there are follows from the organised frames, not from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from morphseq_dagster.adopt.context import collect, refusing
from morphseq_dagster.adopt.legacy_ids import relative_path, translate_image
from morphseq_dagster.adopt.tolerant_json import as_list, clean, number_or_none, text_or_none
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.identifiers import parse_video
from morphseq_dagster.morphseq.contracts.experiment_metadata import (
    PLATE_NUMBERS,
    PLATE_TEXTS,
    ExperimentMetadata,
    VideoInfo,
    nest_images,
    nest_videos,
)
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames

_REMEDY: Final = "let the pipeline make the document anew, or mend the named entries"


def convert_metadata(
    value: Mapping[str, Any], *, experiment: str, frames: OrganizedFrames, where: str
) -> tuple[ExperimentMetadata, tuple[str, ...]]:
    """Convert a parsed metadata file.

    Parameters
    ----------
    value
        The file's content.
    experiment
        Experiment that it must be of.
    frames
        Frames of the experiment.
    where
        Name of the file for messages.

    Returns
    -------
    tuple
        The document and warnings.

    Raises
    ------
    PermanentError
        Naming every well without an entry and every image that is no frame.
    """
    with refusing("experiment metadata", where=where):
        experiments = value.get("experiments")
        section = experiments.get(experiment) if isinstance(experiments, dict) else None
        given = section.get("videos") if isinstance(section, dict) else None
        problems: list[str] = []
        entries: dict[str, Mapping[str, Any]] = {}
        for text, entry in given.items() if isinstance(given, dict) else ():
            try:
                found, well = parse_video(str(text))
            except MorphseqError:
                problems.append(f"{text!r} is no video id")
                continue
            if found != experiment or not isinstance(entry, dict):
                problems.append(f"{text} is no video of {experiment}")
                continue
            entries[well] = entry
        videos: list[VideoInfo] = []
        without_facts = 0
        for well, images in frames.videos().items():
            if well not in entries:
                problems.append(f"well {well} has frames and no entry")
                continue
            infos = _image_infos(entries[well].get("image_ids"), well=well, images=images, problems=problems)
            for image_id, entry in images.items():
                if not infos.get(image_id):
                    without_facts += 1
                    infos[image_id] = _facts_of_frame(entry, microscope=frames.microscope)
            videos.append(_video(entries[well], experiment=experiment, well=well, images=images, infos=infos))
        collect(problems, expected=f"experiment metadata of {experiment}", where=where, remedy=_REMEDY)
        document = nest_videos(experiment, videos=videos, images=frames.images)
        warnings = (f"geometry and time of {without_facts} images were taken from the frames",) if without_facts else ()
        return document, warnings


def _image_infos(
    value: Any,  # noqa: ANN401 - a list or an object from a JSON file
    *,
    well: str,
    images: Mapping[str, ImageEntry],
    problems: list[str],
) -> dict[str, dict[str, Any]]:
    """Frame facts by our image id; a list names images only."""
    given = value if isinstance(value, dict) else {str(text): {} for text in as_list(value)}
    infos: dict[str, dict[str, Any]] = {}
    for text, entry in given.items():
        try:
            image = translate_image(str(text))[0]
        except MorphseqError:
            problems.append(f"{text!r} is no image id")
            continue
        facts = entry.get("raw_image_data_info") if isinstance(entry, dict) else None
        infos[image] = clean(facts) if isinstance(facts, dict) else {}
    unknown = sorted(infos.keys() - images.keys())
    if unknown:
        problems.append(f"well {well}: {len(unknown)} images are no frames, the first {unknown[0]}")
    return infos


def _facts_of_frame(entry: ImageEntry, *, microscope: str) -> dict[str, Any]:
    """Frame facts where the older file has none: what the frames themselves say, under both spellings."""
    scale = entry.um_per_px
    size = {"height": entry.height_px, "width": entry.width_px}
    facts: dict[str, Any] = {"um_per_px": scale, "microscope": microscope, "time_string": f"T{entry.time_int:04d}"}
    for name, pixels in size.items():
        length = None if scale is None else pixels * scale
        facts |= {f"{name.title()} (px)": pixels, f"{name}_px": pixels}
        facts |= {f"{name.title()} (um)": length, f"{name}_um": length}
    return facts | {"Time (s)": entry.time_s, "raw_time_s": entry.time_s, "BF Channel": entry.channel}


def _video(
    value: Mapping[str, Any],
    *,
    experiment: str,
    well: str,
    images: Mapping[str, ImageEntry],
    infos: Mapping[str, dict[str, Any]],
) -> VideoInfo:
    movie = text_or_none(value.get("mp4_path"))
    table = text_or_none(value.get("source_well_metadata_csv"))
    return nest_images(
        experiment,
        well=well,
        images=images,
        facts=infos,
        plate={name: text_or_none(value.get(name)) for name in PLATE_TEXTS}
        | {name: number_or_none(value.get(name)) for name in PLATE_NUMBERS},
        table=relative_path(table or f"metadata/built_metadata_files/{experiment}_metadata.csv"),
        movie=relative_path(movie) if movie is not None else None,
    )
