"""Grey level of the empty background, and the seeded noise that replaces it around a snip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError

Polarity = Literal["bright_background", "dark_background"]


@dataclass(frozen=True)
class BackgroundStatistics:
    """Grey level of the background in the dark-background picture (embryo bright), 0..255.

    Attributes
    ----------
    mean, sd
        Grey levels; sd is the population standard deviation.
    frames, pixels
        How much was averaged; 0 for fixed numbers.
    """

    mean: float
    sd: float
    frames: int = 0
    pixels: int = 0


def as_dark_background(image: NDArray[np.uint8], *, polarity: Polarity) -> NDArray[np.uint8]:
    """Return the picture with a dark background and a bright embryo, as the lab's model expects.

    A bright-background picture is inverted, 255 - grey, in eight bits; upstream does it by an integer
    overflow that also leaves the darkest pixels black (spec, finding 3).
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise PermanentError(
            expected="a grey picture of shape (H, W) and dtype uint8",
            found=f"shape {image.shape}, dtype {image.dtype}",
            where="picture for snips",
            remedy="convert the frame to 8-bit grey first",
        )
    return np.asarray(255 - image, dtype=np.uint8) if polarity == "bright_background" else image


def sample_frames(image_ids: Sequence[str], *, count: int = 100, seed: int = 309) -> tuple[str, ...]:
    """Choose at most `count` frames for the background statistics, sorted; the order of the listing does not count.

    100 and 309 are upstream's (spec 5.5 step 10). The choice is by a hash of seed and id, so a frame added later
    displaces at most one other.
    """
    keyed = sorted(set(image_ids), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return tuple(sorted(keyed[:count]))


def background_statistics(
    frames: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]], *, polarity: Polarity
) -> BackgroundStatistics:
    """Mean and spread of the pixels outside all embryos, from exact counts, hence independent of order.

    Parameters
    ----------
    frames
        Pairs of picture `(H, W)` uint8 and foreground `(H, W)` bool (all embryos, and dead tissue where
        known); consumed one at a time.

    Raises
    ------
    PermanentError
        When no background pixel was seen.
    """
    counts = np.zeros(256, dtype=np.int64)
    seen = 0
    for image, foreground in frames:
        dark = as_dark_background(image, polarity=polarity)
        counts += np.bincount(dark[~foreground], minlength=256)
        seen += 1
    pixels = int(counts.sum())
    if pixels == 0:
        raise PermanentError(
            expected="background pixels outside the embryos of at least one frame",
            found=f"none in {seen} frames",
            where="background statistics",
            remedy="check that the masks do not cover whole frames, or give fixed numbers in the recipe",
        )
    grey = np.arange(256, dtype=np.float64)
    mean = float((grey * counts).sum() / pixels)
    variance = float((np.square(grey - mean) * counts).sum() / pixels)
    return BackgroundStatistics(mean=mean, sd=float(np.sqrt(variance)), frames=seen, pixels=pixels)


def background_noise(shape: tuple[int, int], *, statistics: BackgroundStatistics, snip_id: str) -> NDArray[np.float32]:
    """Draw background noise for one snip, float32 grey levels: the same id gives the same noise.

    It is truncated to [0, mean + 4 sd] (spec 5.5 step 10). The id's SHA-256 seeds the generator; upstream's noise is
    unseeded.
    """
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(snip_id.encode()).digest()[:8], "big"))
    mean, sd = statistics.mean, statistics.sd
    if sd <= 0:
        return np.full(shape, max(mean, 0.0), dtype=np.float32)
    noise = generator.normal(mean, sd, size=shape)
    # The mean is never negative, so each round keeps at least about half of what it redraws.
    while (outside := (noise < 0.0) | (noise > mean + 4.0 * sd)).any():
        noise[outside] = generator.normal(mean, sd, size=int(outside.sum()))
    return noise.astype(np.float32)
