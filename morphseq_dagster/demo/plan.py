"""Plans of demo plates: which wells, how many times, tiles and planes, how large."""

from __future__ import annotations

from dataclasses import dataclass

from morphseq_dagster.demo.microscope import BitDepth
from morphseq_dagster.demo.truth import WellKind
from morphseq_dagster.identifiers import parse_well


@dataclass(frozen=True)
class WellPlan:
    """One well of a plan, with its cells of the workbook.

    Attributes
    ----------
    kind
        `embryo`, `dying` or `empty`.
    start_age_hpf
        Age at the first frame, 10 to 48 hpf all through; in a chorion better below 32, later the tail covers the head.
    """

    well: str
    kind: WellKind = "embryo"
    has_chorion: bool = True
    start_age_hpf: float = 24.0
    genotype: str = "wt_ab"
    chem_perturbation: str | None = None
    medium: str = "E3"
    pair: str = "1"
    temperature: float = 28.5

    @property
    def embryos_per_well(self) -> int:
        """Number of embryos."""
        return 0 if self.kind == "empty" else 1


@dataclass(frozen=True)
class PlatePlan:
    """A plate of a synthetic Keyence microscope.

    Attributes
    ----------
    wells
        The wells; raw folders are numbered in serpentine order as a stage travels.
    times, first_time_int, time_step_s
        Number of frames, number of the first one, seconds between two.
    death_index
        Index of the frame, from 0, in which dying embryos turn opaque.
    tiles, tile_shape_px, overlap
        Tiles per well, (rows, columns) of each, overlapping share.
    um_per_px
        Pixel size. The default is three times that of the real plates (spec 3.2), 1.887209 um.
    edge_every
        Every n-th well shows the well's dark edge; 0 shows none.
    """

    wells: tuple[WellPlan, ...]
    times: int = 6
    first_time_int: int = 1
    time_step_s: float = 1800.0
    death_index: int = 3
    tiles: int = 3
    tile_shape_px: tuple[int, int] = (360, 480)
    overlap: float = 0.3
    planes: int = 5
    um_per_px: float = 5.661627
    bit_depth: BitDepth = 8
    edge_every: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be made; ValueError."""
        names = [well.well for well in self.wells]
        if not names or len(set(names)) < len(names) or any(parse_well(name) != name for name in names):
            raise ValueError(f"wells must be named once each, as A01..H12: {', '.join(names)}")
        if self.times < 1:
            raise ValueError(f"a plate needs at least one time, not {self.times}")
        if any(well.kind == "dying" for well in self.wells) and not 1 <= self.death_index < self.times:
            raise ValueError(
                f"death_index must lie within 1 and {self.times - 1} for a dying embryo, not be {self.death_index}"
            )
        if self.tiles < 1 or not 1 <= self.planes <= 254 or not 0 < self.overlap < 1:
            raise ValueError(f"not a plate: {self.tiles} tiles, {self.planes} planes, overlap {self.overlap}")


DEMO_PLATE = PlatePlan(
    wells=(
        WellPlan("A01", start_age_hpf=18.0),
        WellPlan("A02", start_age_hpf=22.0),
        WellPlan("A03", start_age_hpf=26.0, genotype="lmx1b_ab"),
        WellPlan("A04", start_age_hpf=24.0, has_chorion=False, genotype="lmx1b_ab"),
        WellPlan("B01", start_age_hpf=30.0, has_chorion=False),
        WellPlan("B02", start_age_hpf=20.0, kind="dying", chem_perturbation="DMSO_000_13"),
        WellPlan("B03", start_age_hpf=28.0, has_chorion=False, chem_perturbation="DMSO_000_13"),
        WellPlan("B04", start_age_hpf=24.0, kind="empty"),
    )
)
"""Eight wells, six times: the plate of `make demo`."""
