"""Identifiers: the only place that mints, checks or parses an id (spec, orchestration 2).

Parsing always says which kind is expected, because the forms overlap (a snip id also reads as an image id).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from morphseq_dagster.errors import PermanentError

_WELL = r"[A-H](?:0[1-9]|1[0-2])"
_EXPERIMENT = r"20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:_[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*)*?"
_IN_WELL = rf"(?P<experiment_id>{_EXPERIMENT})_(?P<well>{_WELL})"
_EXPERIMENT_RE = re.compile(_EXPERIMENT, re.ASCII)
_WELL_RE = re.compile(r"([A-Ha-h])(1[0-2]|0?[1-9])", re.ASCII)
_VIDEO_RE = re.compile(_IN_WELL, re.ASCII)
_IMAGE_RE = re.compile(rf"{_IN_WELL}(?:_ch(?P<channel>\d{{2}}))?_t(?P<frame>\d{{3,4}})", re.ASCII)
_EMBRYO_RE = re.compile(rf"{_IN_WELL}_e(?P<embryo>\d{{2,3}})", re.ASCII)
_SNIP_RE = re.compile(rf"{_IN_WELL}_e(?P<embryo>\d{{2,3}})_(?:[ts])?(?P<frame>\d{{3,4}})", re.ASCII)
_ENDS_LIKE_WELL = re.compile(rf"_{_WELL}\Z", re.ASCII)
MAX_EXPERIMENT_LENGTH = 120
"""Longest experiment id: file names such as `{exp}_H12_e99_t9999.jpg` must stay under 255 bytes everywhere."""


@dataclass(frozen=True)
class ImageId:
    """Parts of an image id."""

    experiment_id: str
    well: str
    channel: int
    frame: int


@dataclass(frozen=True)
class SnipId:
    """Parts of a snip id: one embryo in one frame."""

    experiment_id: str
    well: str
    embryo: int
    frame: int


def refuse_experiment(name: str) -> str | None:
    """Say why `name` cannot be an experiment id; None when it can (spec, orchestration 2.1, 2.2)."""
    if len(name) > MAX_EXPERIMENT_LENGTH:
        return f"name is {len(name)} characters long; at most {MAX_EXPERIMENT_LENGTH} are allowed"
    if not _EXPERIMENT_RE.fullmatch(name):
        return "name must be an 8-digit date 20YYMMDD, then optional tokens of letters, digits and '-' joined by '_'"
    if _ENDS_LIKE_WELL.search(name):
        return f"name ends like a well ({name[-3:]}); ids of its wells could not be told apart"
    return None


def check_experiment(name: str) -> str:
    """Return `name` unchanged when it is an experiment id.

    Raises
    ------
    PermanentError
        When the name is refused, with the reason.
    """
    reason = refuse_experiment(name)
    if reason is not None:
        raise PermanentError(
            expected="an experiment id such as 20240418 or 20250612_30hpf_ctrl",
            found=reason,
            where=f"experiment {name!r}",
            remedy="rename the raw folder; `morphseq experiments` lists all names with reasons",
        )
    return name


def experiment_date(experiment: str) -> str:
    """Acquisition date YYYYMMDD, the first 8 characters."""
    return check_experiment(experiment)[:8]


def parse_well(text: str) -> str:
    """Normalise a well name to `A01`..`H12` (`a1` and `A1` are accepted).

    Raises
    ------
    PermanentError
        When `text` names no well of a 96-well plate.
    """
    match = _WELL_RE.fullmatch(text.strip())
    if match is None:
        raise PermanentError(
            expected="a well A01..H12", found=repr(text), where="well name", remedy="correct the well name"
        )
    return f"{match[1].upper()}{int(match[2]):02d}"


def mint_video(experiment: str, *, well: str) -> str:
    """`{exp}_{well}`: one well of one experiment; also the global well id."""
    return f"{experiment}_{well}"


def mint_image(experiment: str, *, well: str, frame: int, channel: int = 0) -> str:
    """`{exp}_{well}_chCC_tNNNN`."""
    return f"{experiment}_{well}_ch{channel:02d}_t{frame:04d}"


def mint_embryo(experiment: str, *, well: str, number: int) -> str:
    """`{exp}_{well}_eNN`, numbered from 1."""
    return f"{experiment}_{well}_e{number:02d}"


def mint_snip(embryo_id: str, *, frame: int) -> str:
    """`{embryo_id}_tNNNN`."""
    return f"{embryo_id}_t{frame:04d}"


def parse_video(video_id: str) -> tuple[str, str]:
    """Split a video id into experiment id and well."""
    match = _fullmatch(_VIDEO_RE, video_id, kind="video")
    return match["experiment_id"], match["well"]


def parse_image(image_id: str) -> ImageId:
    """Split an image id; a missing channel is channel 0 (older trees)."""
    match = _fullmatch(_IMAGE_RE, image_id, kind="image")
    return ImageId(match["experiment_id"], match["well"], int(match["channel"] or 0), int(match["frame"]))


def parse_embryo(embryo_id: str) -> tuple[str, str, int]:
    """Split an embryo id into experiment id, well and embryo number."""
    match = _fullmatch(_EMBRYO_RE, embryo_id, kind="embryo")
    return match["experiment_id"], match["well"], int(match["embryo"])


def parse_snip(snip_id: str) -> SnipId:
    """Split a snip id; the forms `_tNNNN`, `_sNNNN` and `_NNNN` are read, `_tNNNN` alone is written."""
    match = _fullmatch(_SNIP_RE, snip_id, kind="snip")
    return SnipId(match["experiment_id"], match["well"], int(match["embryo"]), int(match["frame"]))


def _fullmatch(pattern: re.Pattern[str], text: str, *, kind: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise PermanentError(
            expected=f"a {kind} id", found=repr(text), where=f"{kind} id", remedy="correct the id at its source"
        )
    return match
