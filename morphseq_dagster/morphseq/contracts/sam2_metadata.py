"""The SAM2 metadata table: 43 columns in fixed order, one row per embryo and frame (spec 1.10)."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract

_GEOMETRY = (
    Column("Height (um)", "float", "Height of the field", "um", nullable=True, minimum=0),
    Column("Height (px)", "int", "Height of the field", "px", minimum=1),
    Column("Width (um)", "float", "Width of the field", "um", nullable=True, minimum=0),
    Column("Width (px)", "int", "Width of the field", "px", minimum=1),
    Column("BF Channel", "str", "Brightfield channel, number or name", nullable=True),
    Column("Objective", "str", "Objective", nullable=True),
    Column("Time (s)", "float", "Time on the microscope's clock", "s", nullable=True),
    Column("Time Rel (s)", "float", "Time since the experiment's first frame", "s", nullable=True, minimum=0),
)
_ALIASES = (
    Column("height_um", "float", "As Height (um)", "um", nullable=True, minimum=0),
    Column("height_px", "int", "As Height (px)", "px", minimum=1),
    Column("width_um", "float", "As Width (um)", "um", nullable=True, minimum=0),
    Column("width_px", "int", "As Width (px)", "px", minimum=1),
    Column("bf_channel", "str", "As BF Channel", nullable=True),
    Column("objective", "str", "As Objective", nullable=True),
    Column("raw_time_s", "float", "As Time (s)", "s", nullable=True),
    Column("relative_time_s", "float", "As Time Rel (s)", "s", nullable=True, minimum=0),
)
# Boxes come from detectors' and masks' fractions; a mask's box never leaves the frame.
_BOX = tuple(
    Column(f"bbox_{side}", "float", f"{side} of the mask's box as a fraction of the frame", minimum=0, maximum=1)
    for side in ("x_min", "y_min", "x_max", "y_max")
)
CONTRACT = TableContract(
    "sam2_metadata",
    (
        Column("image_id", "str", "Frame"),
        Column("embryo_id", "str", "Embryo"),
        Column("snip_id", "str", "Embryo in this frame; primary key"),
        Column("frame_index", "int", "Position in the well's video, from 0", minimum=0),
        Column("area_px", "float", "Area of the mask", "px^2", minimum=0),
        *_BOX,
        Column("mask_confidence", "float", "Confidence of the segmenter", minimum=0, maximum=1),
        Column("exported_mask_path", "str", "File name of the label picture"),
        Column("experiment_id", "str", "Experiment"),
        Column("video_id", "str", "Experiment and well"),
        Column("is_seed_frame", "bool", "Whether this frame fixed the embryos' identities"),
        *_GEOMETRY,
        *_ALIASES,
        Column("microscope", "str", "Microscope", nullable=True),
        Column("nd2_series_num", "int", "Series of the ND2 file", nullable=True, minimum=1),
        Column("medium", "str", "Medium", nullable=True),
        Column("genotype", "str", "Genotype", nullable=True),
        Column("chem_perturbation", "str", "Chemical perturbation", nullable=True),
        Column("start_age_hpf", "float", "Age at the first frame", "hpf", nullable=True, minimum=0),
        Column("embryos_per_well", "float", "Embryos put into the well", "count", nullable=True, minimum=0),
        Column("temperature", "float", "Temperature", "degC", nullable=True),
        Column("well_qc_flag", "str", "Not in use", nullable=True),
        Column("well", "str", "Well A01..H12"),
        Column("time_int", "int", "Frame number", minimum=0),
        Column("time_string", "str", "Frame number as text, T0000"),
        Column("sam2_qc_flags", "str", "Flags of the mask, joined by commas", nullable=True),
    ),
    key=("snip_id",),
    order=("video_id", "time_int", "embryo_id"),
)
