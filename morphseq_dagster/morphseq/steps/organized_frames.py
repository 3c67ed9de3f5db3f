"""Step `organized_frames`: frames named by image id, one folder per well.

Detection and segmentation read its manifest. The bytes stay those of the full-focus frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.identifiers import mint_image, mint_video
from morphseq_dagster.morphseq.contracts.ff_images import FfImages, FrameEntry
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.morphseq.recipes import OrganizedFramesRecipe
from morphseq_dagster.morphseq.steps.image_sets import link_entries


class _Inputs:
    """Full-focus frames of the experiment by well."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.source = context.document("ff_images", FfImages)
        self.wells: dict[str, list[FrameEntry]] = {}
        for frame in self.source.frames:
            self.wells.setdefault(frame.well, []).append(frame)


def run(context: StepContext) -> StepResult:
    """Organise the frames of an experiment."""
    recipe = context.recipe(OrganizedFramesRecipe)
    inputs = _Inputs(context)
    source, wells = inputs.source, inputs.wells
    folder = context.layout.folders("organized_frames", experiment=context.experiment)[0]

    def target(frame: FrameEntry) -> Path:
        video = mint_video(context.experiment, well=frame.well)
        return folder / "images" / video / _file_name(context, frame)

    def restore(task: WellTask) -> WellPayload | None:
        paths = [target(frame) for frame in wells[task.well]]
        return WellPayload({}, {path.name: path for path in paths}) if all(p.is_file() for p in paths) else None

    tasks = [WellTask(well, _inputs(context, source, frames)) for well, frames in sorted(wells.items())]
    done = map_wells(
        context,
        tasks=tasks,
        compute=_read_well,
        load=_Inputs,
        state=inputs,
        restore=restore,
        max_failed_share=recipe.max_failed_share,
    )
    files: dict[Path, Path] = {}
    images: dict[str, ImageEntry] = {}
    for well in sorted(done.payloads):
        frames = sorted(wells[well], key=lambda f: (f.channel, f.time_int))
        for index, frame in enumerate(frames):
            path = target(frame)
            files[path] = Path(str(done.payloads[well].files[path.name]))
            images[_image_id(context, frame)] = ImageEntry(
                path=context.layout.relative(path),
                well=well,
                time_int=frame.time_int,
                channel=frame.channel,
                frame_index=index,
                height_px=frame.height_px,
                width_px=frame.width_px,
                um_per_px=frame.um_per_px,
                time_s=frame.time_s,
            )
    manifest = OrganizedFrames(
        experiment_id=context.experiment,
        files=link_entries(context.layout, files),
        microscope=source.microscope,
        polarity=source.polarity,
        images=images,
    )
    account = Account(wells=done.states, counts={"images": len(images), "wells_computed": done.computed})
    return context.stage_images(files, manifest=manifest, folders=(folder,), account=account)


def _read_well(task: WellTask, inputs: _Inputs) -> WellPayload:
    files: dict[str, bytes | Path] = {
        _file_name(inputs.context, frame): inputs.context.picture(frame.path, entry=inputs.source.files[frame.path])
        for frame in inputs.wells[task.well]
    }
    return WellPayload({}, files)


def _file_name(context: StepContext, frame: FrameEntry) -> str:
    return f"{_image_id(context, frame)}.jpg"


def _image_id(context: StepContext, frame: FrameEntry) -> str:
    return mint_image(context.experiment, well=frame.well, frame=frame.time_int, channel=frame.channel)


def _inputs(context: StepContext, source: FfImages, frames: list[FrameEntry]) -> list[Any]:
    return [[_image_id(context, frame), source.files[frame.path].sha256] for frame in frames]
