"""Paths of what microscopes, labs and people supply below a MorphSeq data root.

Artifacts have their paths in `artifacts.py`; how an input is found and hashed for a step stands in `inputs.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.imaging.microscopes import READERS

MICROSCOPES: Final = tuple(READERS)
SENTINELS: Final = ("acquisition_complete", ".acquisition_complete", ".complete")
"""Files at the top of a raw folder by which a microscope or a copying script says that nothing more will come."""


def raw_root(layout: Layout) -> Path:
    """Folder of the raw acquisitions, one folder per microscope in it."""
    return layout.data_root / "raw_image_data"


def raw_folder(layout: Layout, microscope: str, *, experiment: str) -> Path:
    """Raw folder of one experiment."""
    return raw_root(layout) / microscope / experiment


def workbook_folders(layout: Layout) -> tuple[Path, Path]:
    """Folders searched for the plate workbook, in this order."""
    return layout.data_root / "metadata" / "well_metadata", layout.data_root / "metadata" / "plate_metadata"


def curation(layout: Layout, experiment: str) -> Path:
    """Overrides by hand for one experiment."""
    return layout.data_root / "metadata" / "curation" / f"{experiment}_overrides.csv"


def perturbation_key(layout: Layout) -> Path:
    """Perturbation names of the lab."""
    return layout.data_root / "metadata" / "perturbation_name_key.csv"


def stage_reference(layout: Layout) -> Path:
    """Embryo area against stage."""
    return layout.data_root / "metadata" / "stage_ref_df.csv"


def area_reference(layout: Layout) -> Path:
    """Percentiles of embryo area against stage."""
    return layout.data_root / "metadata" / "sa_reference_curves.csv"


def truth(layout: Layout, experiment: str) -> Path:
    """Truth of a synthetic experiment; no step reads it."""
    return layout.data_root / "truth" / experiment
