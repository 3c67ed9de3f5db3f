"""Quality flags of segmentation masks, recomputed from scratch for a whole experiment (spec 3.4).

The nine rules judge the numbers of `mask_measures`; their instances have the fields that upstream's QC section has,
without author and time stamp: equal masks give equal bytes. Departures from upstream, which spec 3.4 lists as defects:
LARGE_MASK uses the frame's real size and so can fire; nothing is appended to earlier runs; EMPTY_MASK and MISSING_FRAME
exist. An empty mask carries EMPTY_MASK alone and does not count as a neighbour for the variance of others, which it
would flag for its own fault.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import mint_snip
from morphseq_dagster.quality.mask_measures import FrameMasks, FrozenModel, MaskMeasure
from morphseq_dagster.quality.parameters import MaskFlagSettings

SNIP_FLAG_ORDER = (
    "HIGH_SEGMENTATION_VAR_SNIP",
    "MASK_ON_EDGE",
    "LARGE_MASK",
    "SMALL_MASK",
    "DISCONTINUOUS_MASK",
    "EMPTY_MASK",
)
"""Order of the names in `sam2_qc_flags`: upstream's five, then ours. Image flags are not carried there."""

IMAGE_FLAG_ORDER = ("OVERLAPPING_MASKS", "DETECTION_FAILURE", "MISSING_FRAME")


class _Instance(FrozenModel):
    image_id: str
    video_id: str


class _SnipInstance(_Instance):
    snip_id: str
    embryo_id: str


class TouchedEdges(FrozenModel):
    """Which borders of the frame a mask touches."""

    top: bool
    bottom: bool
    left: bool
    right: bool


class HighVariance(_SnipInstance):
    """The area jumps against the neighbouring frames; differences are shares, not per cent."""

    flag: Literal["HIGH_SEGMENTATION_VAR_SNIP"] = "HIGH_SEGMENTATION_VAR_SNIP"
    current_area: int
    avg_before: float | None
    avg_after: float | None
    diff_before_pct: float | None
    diff_after_pct: float | None
    flagged_before: bool
    flagged_after: bool
    frames_checked_before: int
    frames_checked_after: int


class MaskOnEdge(_SnipInstance):
    """The mask touches the border of the frame."""

    flag: Literal["MASK_ON_EDGE"] = "MASK_ON_EDGE"
    touches_edges: TouchedEdges
    margin_pixels: int
    image_shape: tuple[int, int]


class _SizeInstance(_SnipInstance):
    mask_area: int
    total_area: int
    area_percentage: float
    threshold_used: float
    image_shape: tuple[int, int]


class LargeMask(_SizeInstance):
    """The mask covers too much of the frame."""

    flag: Literal["LARGE_MASK"] = "LARGE_MASK"


class SmallMask(_SizeInstance):
    """The mask covers too little of the frame."""

    flag: Literal["SMALL_MASK"] = "SMALL_MASK"


class DiscontinuousMask(_SnipInstance):
    """The mask has several pieces."""

    flag: Literal["DISCONTINUOUS_MASK"] = "DISCONTINUOUS_MASK"
    num_components: int
    component_areas: tuple[int, ...]
    total_area: int
    largest_component_area: int
    smallest_component_area: int


class EmptyMask(_SnipInstance):
    """The embryo is listed in the frame without a single pixel."""

    flag: Literal["EMPTY_MASK"] = "EMPTY_MASK"


class OverlappingMasks(_Instance):
    """Two embryos claim the same pixels."""

    flag: Literal["OVERLAPPING_MASKS"] = "OVERLAPPING_MASKS"
    embryo_id1: str
    embryo_id2: str
    snip_id1: str
    snip_id2: str
    iou: float
    intersection_pixels: int
    union_pixels: int
    threshold_used: float


class DetectionFailure(_Instance):
    """The frame shows fewer embryos than expected."""

    flag: Literal["DETECTION_FAILURE"] = "DETECTION_FAILURE"
    embryo_count: int
    expected_min: int


class MissingFrame(_Instance):
    """The acquisition holds the frame, the segmentation does not."""

    flag: Literal["MISSING_FRAME"] = "MISSING_FRAME"


SnipFlag = HighVariance | MaskOnEdge | LargeMask | SmallMask | DiscontinuousMask | EmptyMask
ImageFlag = OverlappingMasks | DetectionFailure | MissingFrame


DEFAULT_MASK_FLAGS = MaskFlagSettings()


@dataclass(frozen=True)
class MaskFlags:
    """All flags of an experiment.

    Attributes
    ----------
    snips
        By video, frame and embryo, then in the order of `SNIP_FLAG_ORDER`.
    images
        By video and frame, then in the order of `IMAGE_FLAG_ORDER`.
    checked_snips
        Every snip that was judged, flagged or not, sorted as found.
    """

    snips: tuple[SnipFlag, ...]
    images: tuple[ImageFlag, ...]
    checked_snips: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Count the instances per flag name: all nine names, in fixed order."""
        found: list[str] = [instance.flag for instance in (*self.snips, *self.images)]
        return {name: found.count(name) for name in (*SNIP_FLAG_ORDER, *IMAGE_FLAG_ORDER)}


def flag_masks(
    frames: Iterable[FrameMasks],
    *,
    expected: Mapping[str, Mapping[int, str]],
    settings: MaskFlagSettings = DEFAULT_MASK_FLAGS,
) -> MaskFlags:
    """Judge all masks of an experiment from scratch.

    Parameters
    ----------
    expected
        Frames of the acquisition: video id to frame number to image id. Those without an entry in `frames`
        become MISSING_FRAME.

    Raises
    ------
    PermanentError
        When a frame occurs twice; all such frames are named.
    """
    by_video: dict[str, dict[int, FrameMasks]] = defaultdict(dict)
    twice = []
    for frame in frames:
        if frame.time_int in by_video[frame.video_id]:
            twice.append(frame.image_id)
        by_video[frame.video_id][frame.time_int] = frame
    if twice:
        raise PermanentError(
            expected="each frame once",
            found=f"twice: {', '.join(sorted(twice))}",
            where="measured masks",
            remedy="measure each frame of a well once",
        )
    snips: list[SnipFlag] = []
    images: list[ImageFlag] = []
    checked: list[str] = []
    for video_id in sorted(set(by_video) | set(expected)):
        present = by_video.get(video_id, {})
        wanted = expected.get(video_id, {})
        jumps = _variance_flags([present[t] for t in sorted(present)], settings=settings)
        for time_int in sorted(set(present) | set(wanted)):
            if time_int not in present:
                images.append(MissingFrame(image_id=wanted[time_int], video_id=video_id))
                continue
            frame = present[time_int]
            for measure in frame.masks:
                snip_id = mint_snip(measure.embryo_id, frame=time_int)
                checked.append(snip_id)
                snips += [jumps[snip_id]] if snip_id in jumps else []
                snips.extend(_mask_flags(frame, measure=measure, snip_id=snip_id, settings=settings))
            images.extend(_image_flags(frame, settings=settings))
    return MaskFlags(tuple(snips), tuple(images), tuple(checked))


def _variance_flags(frames: Sequence[FrameMasks], *, settings: MaskFlagSettings) -> dict[str, HighVariance]:
    series: dict[str, list[tuple[FrameMasks, int]]] = defaultdict(list)
    for frame in frames:
        for measure in frame.masks:
            if measure.area_px > 0:
                series[measure.embryo_id].append((frame, measure.area_px))
    flags = {}
    window, limit = settings.variance_window_frames, settings.variance_share_max
    for embryo_id, rows in series.items():
        areas = [area for _, area in rows]
        for i, (frame, area) in enumerate(rows):
            # Two values each: against the frames before, and against those after.
            sides = areas[max(i - window, 0) : i], areas[i + 1 : i + 1 + window]
            means = [sum(side) / len(side) if side else None for side in sides]
            shares = [None if mean is None else abs(area - mean) / mean for mean in means]
            flagged = [share is not None and share > limit for share in shares]
            if any(flagged):
                snip_id = mint_snip(embryo_id, frame=frame.time_int)
                flags[snip_id] = HighVariance(
                    image_id=frame.image_id,
                    video_id=frame.video_id,
                    snip_id=snip_id,
                    embryo_id=embryo_id,
                    current_area=area,
                    avg_before=means[0],
                    avg_after=means[1],
                    diff_before_pct=shares[0],
                    diff_after_pct=shares[1],
                    flagged_before=flagged[0],
                    flagged_after=flagged[1],
                    frames_checked_before=len(sides[0]),
                    frames_checked_after=len(sides[1]),
                )
    return flags


def _mask_flags(frame: FrameMasks, *, measure: MaskMeasure, snip_id: str, settings: MaskFlagSettings) -> list[SnipFlag]:
    ids: dict[str, Any] = {
        "image_id": frame.image_id,
        "video_id": frame.video_id,
        "snip_id": snip_id,
        "embryo_id": measure.embryo_id,
    }
    if measure.box_px is None:
        return [EmptyMask(**ids)]
    height, width = frame.image_shape
    row0, col0, row1, col1 = measure.box_px
    margin = settings.edge_margin_px
    edges = TouchedEdges(
        top=row0 < margin, bottom=row1 > height - margin, left=col0 < margin, right=col1 > width - margin
    )
    flags: list[SnipFlag] = []
    if edges.top or edges.bottom or edges.left or edges.right:
        flags.append(MaskOnEdge(**ids, touches_edges=edges, margin_pixels=margin, image_shape=frame.image_shape))
    share = measure.area_px / (height * width)
    for kind, fires, limit in (
        (LargeMask, share > settings.large_share_min, settings.large_share_min),
        (SmallMask, share < settings.small_share_max, settings.small_share_max),
    ):
        if fires:
            flags.append(
                kind(
                    **ids,
                    mask_area=measure.area_px,
                    total_area=height * width,
                    area_percentage=share,
                    threshold_used=limit,
                    image_shape=frame.image_shape,
                )
            )
    pieces = measure.component_areas_px
    if len(pieces) > 1:
        flags.append(
            DiscontinuousMask(
                **ids,
                num_components=len(pieces),
                component_areas=pieces,
                total_area=measure.area_px,
                largest_component_area=max(pieces),
                smallest_component_area=min(pieces),
            )
        )
    return flags


def _image_flags(frame: FrameMasks, *, settings: MaskFlagSettings) -> list[ImageFlag]:
    flags: list[ImageFlag] = []
    for pair in frame.overlaps:
        iou = pair.intersection_pixels / pair.union_pixels
        if iou > settings.overlap_iou_max:
            flags.append(
                OverlappingMasks(
                    image_id=frame.image_id,
                    video_id=frame.video_id,
                    embryo_id1=pair.embryo_id1,
                    embryo_id2=pair.embryo_id2,
                    snip_id1=mint_snip(pair.embryo_id1, frame=frame.time_int),
                    snip_id2=mint_snip(pair.embryo_id2, frame=frame.time_int),
                    iou=iou,
                    intersection_pixels=pair.intersection_pixels,
                    union_pixels=pair.union_pixels,
                    threshold_used=settings.overlap_iou_max,
                )
            )
    count = sum(measure.area_px > 0 for measure in frame.masks)
    if count < settings.expected_embryos_min:
        flags.append(
            DetectionFailure(
                image_id=frame.image_id,
                video_id=frame.video_id,
                embryo_count=count,
                expected_min=settings.expected_embryos_min,
            )
        )
    return flags
