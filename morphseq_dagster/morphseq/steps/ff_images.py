"""Step `ff_images`: one focused, stitched 8-bit frame per well and time, well by well.

Raw sources are read, focused and stitched in `imaging`; this step publishes the frames and their manifest. Wells with
tiles whose place their pixels do not show are made a second time, with the usual steps of the plate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellRun, WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.frames_folder import TABLE_NAME
from morphseq_dagster.imaging.microscopes import open_source
from morphseq_dagster.imaging.pictures import encode_jpeg
from morphseq_dagster.imaging.sources import FocusedFrame, RawFrame, RawProblem, RawScan
from morphseq_dagster.imaging.stitching import TileOffset, TileStep, estimate_plate_steps
from morphseq_dagster.morphseq.contracts.ff_images import FfImages, FrameEntry, TilePlacement
from morphseq_dagster.morphseq.contracts.raw_manifest import RawFile, RawManifest
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.recipes import FfImagesRecipe
from morphseq_dagster.morphseq.steps.image_sets import link_entries
from morphseq_dagster.morphseq.steps.previews import contact_sheet

_PLATE_STEPS = "plate_steps"


class _Raw:
    """The raw folder of the experiment: what the manifest lists, how it is read, and the frames that are in it."""

    def __init__(self, context: StepContext, *, scan: RawScan | None = None) -> None:
        self.context = context
        self.recipe = context.recipe(FfImagesRecipe)
        manifest = context.document("raw_manifest", RawManifest)
        self.microscope = manifest.microscope
        self.folder = raw_folder(context.layout, self.microscope, experiment=context.experiment)
        self.source = open_source(self.folder, microscope=self.microscope, settings=self.recipe.focus)
        self.listed = {file.path: file for file in manifest.files}
        self.target = context.layout.folders("ff_images", experiment=context.experiment)[0]
        # Before the scan reads it: a table edited in between is then found changed.
        self.tables = _hash_unread(self.folder, [self.listed[TABLE_NAME]] if TABLE_NAME in self.listed else [])
        self.scan = _make_portable(self.source.scan(), context=context) if scan is None else scan


def run(context: StepContext) -> StepResult:
    """Make the frames of an experiment."""
    raw = _Raw(context)
    recipe, scan, listed, target = raw.recipe, raw.scan, raw.listed, raw.target
    _refuse_channels(scan, folder=raw.folder)
    wells = sorted({*scan.wells, *(p.well for p in scan.problems if p.well is not None)})
    inputs = {well: _inputs(scan.frames_of(well), listed, scan.problems_of(well)) for well in wells}
    published = _published_frames(context)

    def restore(task: WellTask) -> WellPayload | None:
        entries = published.get(task.well)
        if entries is None:
            return None
        files: dict[str, bytes | Path] = {Path(e["path"]).name: context.layout.absolute(e["path"]) for e in entries}
        return WellPayload({"frames": entries}, files)

    def work(tasks: Sequence[WellTask], *, max_failed_share: float) -> WellRun:
        return map_wells(
            context,
            tasks=tasks,
            compute=_make_well,
            load=partial(_Raw, scan=scan),
            state=raw,
            restore=restore,
            max_failed_share=max_failed_share,
        )

    # Wells that took the plate's steps in the version that stands are looked for under these, so that they are reused.
    tasks = _add_plate_steps(inputs, published)
    done = work(tasks, max_failed_share=recipe.max_failed_share)
    found = {well: payload.data["frames"] for well, payload in done.payloads.items()}
    again = [task for task in _add_plate_steps(inputs, found) if task.well in found and task not in tasks]
    if again:
        left = recipe.max_failed_share * len(tasks) - (len(tasks) - len(found))
        done = _replace_wells(done, work(again, max_failed_share=left / len(again)), folder=target)
    frames = tuple(FrameEntry.model_validate(e) for payload in done.payloads.values() for e in payload.data["frames"])
    files = {target / n: Path(str(p)) for payload in done.payloads.values() for n, p in payload.files.items()}
    failed = {well: state.reason for well, state in done.states.items() if state.status == "failed"}
    unread = [listed[path] for well in failed for frame in scan.frames_of(well) for path in frame.files]
    manifest = FfImages(
        experiment_id=context.experiment,
        files=link_entries(context.layout, files),
        microscope=raw.microscope,
        polarity=raw.source.polarity,
        frames=tuple(sorted(frames, key=lambda f: (f.well, f.channel, f.time_int))),
        failed_wells=failed,
        also_read=raw.tables | _hash_unread(raw.folder, unread),
        problems=tuple(str(problem) for problem in scan.problems),
    )
    account = Account(
        # A frame that is lost to the scan is no failed well, and yet the result is not whole.
        status="degraded" if scan.problems else "ok",
        wells=done.states,
        counts={"frames": len(frames), "wells": len(done.payloads), "wells_computed": done.computed},
        warnings=manifest.problems,
        preview=contact_sheet([files[p] for p in sorted(files)]),
    )
    return context.stage_images(files, manifest=manifest, folders=(target,), account=account)


def _make_well(task: WellTask, raw: _Raw) -> WellPayload:
    """Make the frames of one well."""
    frames = raw.scan.frames_of(task.well)
    if not frames:
        raise _lost(raw.scan.problems_of(task.well))
    entries, files = [], {}
    steps = _read_steps(task.inputs)
    for frame in frames:
        name = frame_name(frame, microscope=raw.microscope)
        focused = raw.source.full_focus(frame, settings=raw.recipe.focus, plate_steps=steps)
        files[name] = focused.encoded or encode_jpeg(focused.pixels, quality=raw.recipe.jpeg_quality)
        path = raw.context.layout.relative(raw.target / name)
        entries.append(_entry(frame, focused, path=path).model_dump(mode="json"))
    _refuse_unequal(entries, well=task.well)
    return WellPayload({"frames": entries}, dict(files))


def _replace_wells(first: WellRun, second: WellRun, *, folder: Path) -> WellRun:
    """Put the wells of a second run in the place of the first run's; `folder` holds the published pictures."""
    payloads = {well: payload for well, payload in first.payloads.items() if well not in second.states}
    payloads |= second.payloads
    states = {**first.states, **second.states}
    payloads = {well: payloads[well] for well in states if well in payloads}
    reused = sum(all(Path(str(path)).parent == folder for path in made.files.values()) for made in payloads.values())
    # A well that was made twice counts once.
    return WellRun(payloads, states, min(first.computed + second.computed, len(states) - reused))


def _add_plate_steps(
    inputs: Mapping[str, list[dict[str, Any]]], wells: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[WellTask]:
    """Make the wells' tasks; one with tiles that do not show their place is given the usual steps of the plate.

    Parameters
    ----------
    inputs
        What each well's frames depend on otherwise.
    wells
        Entries of the frames known so far, from which trust and the usual steps are read.
    """
    tiles = {
        well: [
            [TileOffset(int(t["row_px"]), int(t["column_px"]), t["source"], t["ncc"]) for t in entry["tiles"]]
            for entry in entries
        ]
        for well, entries in wells.items()
    }
    steps = estimate_plate_steps(frame for frames in tiles.values() for frame in frames)
    stated = {_PLATE_STEPS: [(step.row_px, step.column_px) if step is not None else None for step in steps]}

    def lacks(well: str) -> bool:
        pairs = (pair for frame in tiles.get(well, ()) for pair in zip(frame[1:], steps, strict=False))
        return any(tile.source != "measured" and step is not None for tile, step in pairs)

    return [WellTask(well, [*values, stated] if lacks(well) else values) for well, values in inputs.items()]


def _read_steps(inputs: Sequence[Mapping[str, Any]]) -> tuple[TileStep | None, ...]:
    """Take the plate's steps out of a task; none where the well does not need them."""
    stated = inputs[-1].get(_PLATE_STEPS, ()) if inputs else ()
    return tuple(TileStep(*step) if step is not None else None for step in stated)


def frame_name(frame: RawFrame, *, microscope: str) -> str:
    """File name of a frame: the channel token is absent for Keyence (spec, orchestration 1.4)."""
    channel = "" if microscope == "Keyence" else f"_ch{frame.channel:02d}"
    return f"{frame.well}_t{frame.time_int:04d}{channel}_stitch.jpg"


def _make_portable(scan: RawScan, *, context: StepContext) -> RawScan:
    problems = (
        replace(problem, where=context.portable(problem.where), found=context.portable(problem.found))
        for problem in scan.problems
    )
    return replace(scan, problems=tuple(problems))


def _hash_unread(folder: Path, files: Sequence[RawFile]) -> dict[str, str]:
    """Hash raw files that no frame's entry speaks of; blank where a file is not the listed one any more."""
    hashes = {}
    for file in files:
        path = folder / file.path
        try:
            status = path.stat()
            same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)
            hashes[file.path] = hash_file(path) if same else ""
        except OSError:
            hashes[file.path] = ""
    return dict(sorted(hashes.items()))


def _refuse_channels(scan: RawScan, *, folder: Path) -> None:
    """Refuse several channels: images, embryos and rows are told apart by well and time alone."""
    channels = sorted({frame.channel for frame in scan.frames})
    if len(channels) > 1:
        raise PermanentError(
            expected="frames of one channel",
            found=f"channels {', '.join(map(str, channels))}",
            where=str(folder),
            remedy=f"keep the brightfield rows of {TABLE_NAME} alone; other channels may stay in the folder",
        )


def _inputs(
    frames: Sequence[RawFrame], listed: Mapping[str, RawFile], problems: Sequence[RawProblem]
) -> list[dict[str, Any]]:
    """Everything that a well's frames depend on: files by hash, and what a table beside them says."""
    values: list[dict[str, Any]] = []
    for frame in frames:
        files = []
        for path in frame.files:
            file = listed.get(path)
            if file is None:
                raise PermanentError(
                    expected="every file that the raw manifest lists and no other",
                    found=f"{path} appeared since the manifest was made",
                    where="raw folder",
                    remedy="run the experiment again; raw_manifest looks anew",
                )
            files.append([path, file.size, file.ends_sha256, file.whole_sha256])
        values.append(
            {
                "time_int": frame.time_int,
                "channel": frame.channel,
                "time_s": frame.time_s,
                "um_per_px": frame.um_per_px,
                "files": files,
            }
        )
    return [*values, *({"problem": str(problem)} for problem in problems)]


def _entry(frame: RawFrame, focused: FocusedFrame, *, path: str) -> FrameEntry:
    height, width = focused.pixels.shape
    return FrameEntry(
        well=frame.well,
        time_int=frame.time_int,
        channel=frame.channel,
        path=path,
        height_px=height,
        width_px=width,
        raw_height_px=focused.height_px,
        raw_width_px=focused.width_px,
        um_per_px=focused.um_per_px,
        time_s=focused.time_s,
        objective=focused.objective,
        channel_name=focused.channel_name,
        sources=dict(focused.sources),
        tiles=tuple(
            TilePlacement(row_px=t.row_px, column_px=t.column_px, source=t.source, ncc=t.ncc)
            for t in focused.tile_offsets
        ),
    )


def _refuse_unequal(entries: Sequence[Mapping[str, Any]], *, well: str) -> None:
    """Refuse a well whose frames differ in size or scale: tracking and tables assume one geometry per well."""
    forms = {(e["height_px"], e["width_px"], e["um_per_px"]): e["path"] for e in reversed(entries)}
    if len(forms) > 1:
        found = ", ".join(
            f"{h} x {w} px at {'unknown' if scale is None else scale} um/px (first {p})"
            for (h, w, scale), p in forms.items()
        )
        raise PermanentError(
            expected="frames of equal size and pixel size",
            found=found,
            where=f"well {well}",
            remedy="acquire or crop to one size; correct um_per_px where it is written by hand",
        )


def _lost(problems: Sequence[RawProblem]) -> PermanentError:
    return PermanentError(
        expected="at least one usable frame",
        found="; ".join(f"{p.where}: {p.found}" for p in problems),
        where=f"well {problems[0].well}",
        remedy="; ".join(dict.fromkeys(p.remedy for p in problems)),
    )


def _published_frames(context: StepContext) -> dict[str, list[dict[str, Any]]]:
    """Frames of the published version by well."""
    data = context.published()
    if data is None:
        return {}
    manifest = parse_document(FfImages, data, where=context.request.output)
    wells: dict[str, list[dict[str, Any]]] = {}
    for frame in manifest.frames:
        wells.setdefault(frame.well, []).append(frame.model_dump(mode="json"))
    return wells
