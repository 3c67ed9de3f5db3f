"""Older folders of pictures: stitched frames, organised frames, label pictures - and our manifests of them.

File names, headers and the frame table beside them are read. Pictures keep their bytes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.adopt.context import Context, Converted, collect
from morphseq_dagster.adopt.conventions import Source
from morphseq_dagster.adopt.legacy_ids import translate_image
from morphseq_dagster.adopt.tolerant_json import number_or_none, text_or_none
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_file, hash_json
from morphseq_dagster.engine.tables.document import encode_document
from morphseq_dagster.engine.tables.image_set import FileEntry
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.identifiers import mint_image, mint_video, parse_video, parse_well
from morphseq_dagster.imaging.picture_bytes import peek_header
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks, MaskExport
from morphseq_dagster.morphseq.contracts.ff_images import FfImages, FrameEntry
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument, list_entities
from morphseq_dagster.morphseq.paths import MICROSCOPES, raw_folder

_STITCHED: Final = re.compile(
    r"(?P<well>[A-H]\d{2})_t(?P<frame>\d{3,4})(?:_ch(?P<channel>\d{2}))?_stitch\.(?:jpg|jpeg|png)", re.IGNORECASE
)
_NUMBERED: Final = re.compile(r"t?(\d{3,4})", re.IGNORECASE)
_REMEDY: Final = "let the pipeline make these pictures anew, or mend the named files"


@dataclass(frozen=True)
class FrameFacts:
    """What the older frame table says of one frame: pixel size, raw size, time, lens, channel, microscope."""

    um_per_px: float | None = None
    height_px: int | None = None
    width_px: int | None = None
    time_s: float | None = None
    objective: str | None = None
    channel_name: str | None = None
    microscope: str | None = None


def read_frame_table(path: Path | None) -> dict[tuple[str, int], FrameFacts]:
    """Read an older frame table (A4) by well and frame number; empty where there is none."""
    if path is None or not path.is_file():
        return {}
    facts: dict[tuple[str, int], FrameFacts] = {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        for row in csv.DictReader(handle):
            frame = number_or_none(row.get("time_int"))
            well = text_or_none(row.get("well"))
            if frame is None or well is None:
                continue
            height_um, height = number_or_none(row.get("Height (um)")), number_or_none(row.get("Height (px)"))
            width = number_or_none(row.get("Width (px)"))
            facts[well, int(frame)] = FrameFacts(
                um_per_px=height_um / height if height_um and height else None,
                height_px=int(height) if height else None,
                width_px=int(width) if width else None,
                time_s=number_or_none(row.get("Time (s)")),
                objective=text_or_none(row.get("Objective")),
                channel_name=text_or_none(row.get("Channel")),
                microscope=text_or_none(row.get("microscope")),
            )
    return facts


def convert_stitched(context: Context, source: Source) -> Converted:
    """Stitched full-focus frames, `{well}_tNNNN[_chCC]_stitch.jpg` (spec 1.4).

    Raises
    ------
    PermanentError
        Naming every picture that cannot be read.
    """
    table = read_frame_table(_table_path(context))
    target = context.layout.folders("ff_images", experiment=context.experiment)[0]
    problems: list[str] = []
    files: dict[Path, Path] = {}
    frames: list[FrameEntry] = []
    for path in _pictures(source.path):
        match = _STITCHED.fullmatch(path.name)
        size = _size(path, problems)
        if match is None:
            problems.append(f"{path.name} is not named WELL_tNNNN_stitch.jpg")
        if match is None or size is None:
            continue
        well, frame, channel = parse_well(match["well"]), int(match["frame"]), int(match["channel"] or 0)
        final = target / path.name
        files[final] = path
        facts = table.get((well, frame), FrameFacts())
        frames.append(
            FrameEntry(
                well=well,
                time_int=frame,
                channel=channel,
                path=context.layout.relative(final),
                height_px=size[0],
                width_px=size[1],
                raw_height_px=facts.height_px or size[0],
                raw_width_px=facts.width_px or size[1],
                um_per_px=facts.um_per_px,
                time_s=facts.time_s,
                objective=facts.objective,
                channel_name=facts.channel_name,
                sources={},
            )
        )
    _refuse_doubles(((f.well, f.time_int, f.channel) for f in frames), problems)
    _finish(problems, found=len(frames), what="stitched frames", where=source.path)
    microscope = _microscope(context, table=table, names=[path.name for path in files.values()])
    manifest = FfImages(
        experiment_id=context.experiment,
        files=_entries(context.layout, files),
        microscope=microscope,
        polarity=_polarity(microscope),
        frames=tuple(sorted(frames, key=lambda f: (f.well, f.channel, f.time_int))),
        also_read={},
        failed_wells={},
        problems=(),
    )
    counts = {"frames": len(frames), "wells": len({frame.well for frame in frames})}
    return _converted(manifest, source=source, files=files, counts=counts, warnings=_unknown_scale(frames))


def convert_organized(context: Context, source: Source) -> Converted:
    """Organised frames, `{video}/{image_id}.jpg` or `{video}/NNNN.jpg` (spec 1.5).

    Raises
    ------
    PermanentError
        Naming every picture that cannot be read.
    """
    table = read_frame_table(_table_path(context))
    stitched = context.document("ff_images", FfImages)
    known = {(f.well, f.time_int): f for f in stitched.frames} if stitched is not None else {}
    target = context.layout.folders("organized_frames", experiment=context.experiment)[0] / "images"
    problems: list[str] = []
    files: dict[Path, Path] = {}
    found: list[tuple[str, str, int, int, tuple[int, int], Path]] = []
    for folder in sorted(path for path in source.path.iterdir() if path.is_dir()):
        for path in _pictures(folder):
            named = _name_organized(context.experiment, folder=folder.name, path=path, problems=problems)
            size = _size(path, problems)
            if named is None or size is None:
                continue
            image_id, well, frame, channel = named
            final = target / mint_video(context.experiment, well=well) / f"{image_id}{path.suffix.lower()}"
            if final in files:
                problems.append(f"{path.name} and {files[final].name} are the same frame")
            files[final] = path
            found.append((image_id, well, frame, channel, size, final))
    _finish(problems, found=len(found), what="organised frames", where=source.path)
    images: dict[str, ImageEntry] = {}
    positions: dict[str, int] = {}
    for image_id, well, frame, channel, size, final in sorted(found, key=lambda e: (e[1], e[3], e[2])):
        facts, entry = table.get((well, frame), FrameFacts()), known.get((well, frame))
        images[image_id] = ImageEntry(
            path=context.layout.relative(final),
            well=well,
            time_int=frame,
            channel=channel,
            frame_index=positions.setdefault(well, 0),
            height_px=size[0],
            width_px=size[1],
            um_per_px=entry.um_per_px if entry is not None else facts.um_per_px,
            time_s=entry.time_s if entry is not None else facts.time_s,
        )
        positions[well] += 1
    microscope = stitched.microscope if stitched is not None else _microscope(context, table=table, names=[])
    manifest = OrganizedFrames(
        experiment_id=context.experiment,
        files=_entries(context.layout, files),
        microscope=microscope,
        polarity=stitched.polarity if stitched is not None else _polarity(microscope),
        images=images,
    )
    warnings = _unknown_scale(list(images.values()))
    return _converted(manifest, source=source, files=files, counts={"images": len(images)}, warnings=warnings)


def convert_masks(context: Context, source: Source) -> Converted:
    """Label pictures `{image_id}_masks_emnum_{N}.png` (spec 1.9), which must agree with the segmentation.

    Raises
    ------
    PermanentError
        Naming every image whose label picture is missing, too many or of another size.
    """
    document = context.document("sam2_segmentations", SegmentationDocument)
    document = document or context.need("sam2_tracks", SegmentationDocument)
    videos = document.experiments[context.experiment].videos.values()
    images = {i.image_id: i for v in videos if v.sam2_success for i in v.image_ids.values() if i.embryos}
    folder = context.layout.folders("exported_masks", experiment=context.experiment)[0] / "masks"
    problems: list[str] = []
    files: dict[Path, Path] = {}
    exports: dict[str, MaskExport] = {}
    origin = context.layout.relative(context.layout.primary("sam2_segmentations", experiment=context.experiment))
    stale = 0
    for path in _pictures(source.path):
        text, _, count = path.stem.partition("_masks_emnum_")
        try:
            image = images.get(translate_image(text)[0])
        except MorphseqError:
            problems.append(f"{path.name} is not named IMAGE_masks_emnum_N.png")
            continue
        if image is None or count != str(len(image.embryos)):
            stale += 1  # older runs leave label pictures of other counts behind (spec 1.9)
            continue
        size = _size(path, problems)
        wanted = next(iter(image.embryos.values())).segmentation.size
        if size is not None and size != wanted:
            problems.append(f"{path.name} is {size[0]} x {size[1]} px, its masks are {wanted[0]} x {wanted[1]} px")
        final = folder / f"{image.image_id}_masks_emnum_{len(image.embryos)}.png"
        if path.suffix.lower() != ".png":
            problems.append(f"{path.name} is no PNG: other forms corrupt labels")
        files[final] = path
        exports[image.image_id] = MaskExport(
            image_id=image.image_id,
            output_path=context.layout.relative(final),
            embryo_count=len(image.embryos),
            source_file=origin,
            image_shape=wanted,
        )
    problems += [f"{image_id} has no label picture" for image_id in sorted(images.keys() - exports.keys())]
    _finish(problems, found=len(exports) or len(images) == 0, what="label pictures", where=source.path)
    exports = dict(sorted(exports.items()))
    manifest = ExportedMasks(
        experiment_id=context.experiment,
        files=_entries(context.layout, files),
        entity_tracking=list_entities(context.experiment, [images[image_id] for image_id in exports]),
        exports=exports,
        total_exported=len(exports),
    )
    warnings = (f"{stale} label pictures of other runs were left out",) if stale else ()
    return _converted(manifest, source=source, files=files, counts={"masks": len(exports)}, warnings=warnings)


def hash_tree(files: Mapping[Path, FileEntry] | Mapping[str, FileEntry]) -> str:
    """Digest of names and content hashes: what stands for the hash of a folder."""
    return hash_json(sorted([Path(name).name, entry.sha256] for name, entry in files.items()))


def _converted(
    manifest: FfImages | OrganizedFrames | ExportedMasks,
    *,
    source: Source,
    files: Mapping[Path, Path],
    counts: Mapping[str, int],
    warnings: tuple[str, ...],
) -> Converted:
    return Converted(
        data=encode_document(manifest),
        source=source.path,
        source_sha256=hash_tree(manifest.files),
        convention=source.convention,
        files=files,
        counts={**counts, "files": len(files)},
        warnings=warnings,
    )


def _pictures(folder: Path) -> list[Path]:
    """Pictures directly in a folder; markers, manifests and hidden files do not count."""
    kinds = (".jpg", ".jpeg", ".png")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds and not p.name.startswith("."))


def _size(path: Path, problems: list[str]) -> tuple[int, int] | None:
    try:
        header = peek_header(path)
    except MorphseqError as error:
        problems.append(f"{path.name}: {error.found}")
        return None
    return header.height_px, header.width_px


def _name_organized(
    experiment: str, *, folder: str, path: Path, problems: list[str]
) -> tuple[str, str, int, int] | None:
    """Image id, well, frame and channel from a file's name and its folder's."""
    try:
        found, well = parse_video(folder)
        numbered = _NUMBERED.fullmatch(path.stem)
        if numbered is not None:
            frame, channel, owner = int(numbered[1]), 0, (found, well)
        else:
            parts = translate_image(path.stem)[1]
            frame, channel, owner = parts.frame, parts.channel, (parts.experiment_id, parts.well)
    except MorphseqError as error:
        problems.append(f"{folder}/{path.name}: {error.found} is no {error.expected.removeprefix('a ')}")
        return None
    if owner != (experiment, well) or found != experiment:
        problems.append(f"{folder}/{path.name} does not belong to {experiment}")
        return None
    return mint_image(experiment, well=well, frame=frame, channel=channel), well, frame, channel


def _entries(layout: Layout, files: Mapping[Path, Path]) -> dict[str, FileEntry]:
    return {
        layout.relative(final): FileEntry(sha256=hash_file(path), size=path.stat().st_size)
        for final, path in sorted(files.items())
    }


def _microscope(context: Context, *, table: Mapping[tuple[str, int], FrameFacts], names: list[str]) -> str:
    """Microscope by the raw folder, else by the frame table, else by the channel token that only YX1 writes."""
    for name in MICROSCOPES:
        if raw_folder(context.layout, name, experiment=context.experiment).is_dir():
            return name
    named = sorted({facts.microscope for facts in table.values() if facts.microscope})
    if named:
        return named[0]
    return "YX1" if any("_ch" in name for name in names) else "Keyence"


def _polarity(microscope: str) -> Literal["as_acquired", "inverted"]:
    """Older programs invert the pictures of both their microscopes (spec, science 0, finding 3)."""
    return "as_acquired" if microscope == "Frames" else "inverted"


def _table_path(context: Context) -> Path:
    return context.root / f"metadata/built_metadata_files/{context.experiment}_metadata.csv"


def _unknown_scale(entries: Iterable[FrameEntry | ImageEntry]) -> tuple[str, ...]:
    unknown = sum(entry.um_per_px is None for entry in entries)
    return (f"pixel size of {unknown} frames unknown: no frame table says it",) if unknown else ()


def _refuse_doubles(keys: Iterable[tuple[str, int, int]], problems: list[str]) -> None:
    seen: set[tuple[str, int, int]] = set()
    for key in keys:
        if key in seen:
            problems.append(f"well {key[0]} frame {key[1]} channel {key[2]} stands twice")
        seen.add(key)


def _finish(problems: list[str], *, found: int, what: str, where: Path) -> None:
    if not problems and not found:
        raise PermanentError(expected=what, found="no picture", where=str(where), remedy=_REMEDY)
    collect(problems, expected=what, where=str(where), remedy=_REMEDY)
