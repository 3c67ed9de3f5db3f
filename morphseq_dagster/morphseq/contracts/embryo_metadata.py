"""Embryo table (build03): one row per embryo and frame with shape, viability, flags, stage and perturbation.

R13's required columns are all here; a flag that could not be judged is null, with its reason beside it. `width_um` and
`length_um` mean the embryo; the field of view is called `fov_...` from here on.
"""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.morphseq.contracts.plate_metadata import PLATE_COLUMNS

FLAGS = ("bubble_flag", "focus_flag", "frame_flag", "dead_flag", "no_yolk_flag")
"""Flags of the embryo table, true when raised, null when unknown."""
_IDS = (
    Column("snip_id", "str", "Embryo in this frame; primary key"),
    Column("experiment_id", "str", "Experiment"),
    Column("experiment_date", "str", "Experiment id (its old name)"),
    Column("video_id", "str", "Experiment and well"),
    Column("well_id", "str", "Experiment and well"),
    Column("well", "str", "Well A01..H12"),
    Column("image_id", "str", "Frame"),
    Column("embryo_id", "str", "Embryo"),
    Column("region_label", "int", "Embryo number in the label picture", minimum=1),
    Column("time_int", "int", "Frame number", minimum=0),
    Column("time_string", "str", "Frame number as text"),
    Column("frame_index", "int", "Position in the well's video", minimum=0),
    Column("is_seed_frame", "bool", "Whether this frame fixed the embryos' identities"),
    Column("Time (s)", "float", "Time on the microscope's clock", "s", nullable=True),
    Column("Time Rel (s)", "float", "Time since the experiment's first frame", "s", nullable=True, minimum=0),
)
_GEOMETRY = (
    Column("um_per_px", "float", "Pixel size", "um/px", nullable=True, minimum=0),
    Column("fov_width_um", "float", "Width of the raw field", "um", nullable=True, minimum=0),
    Column("fov_height_um", "float", "Height of the raw field", "um", nullable=True, minimum=0),
    Column("fov_width_px", "int", "Width of the raw field", "px", minimum=1),
    Column("fov_height_px", "int", "Height of the raw field", "px", minimum=1),
    Column("xpos", "float", "Centre of the mask's box as a fraction of the width", minimum=0, maximum=1),
    Column("ypos", "float", "Centre of the mask's box as a fraction of the height", minimum=0, maximum=1),
    Column("mask_target", "str", "What the mask encloses", allowed=("body", "chorion")),
    Column("mask_confidence", "float", "Confidence of the segmenter", minimum=0, maximum=1),
    Column("exported_mask_path", "str", "File name of the label picture"),
)
_SHAPE = (
    Column("area_px", "int", "Area of the mask", "px^2", minimum=0),
    Column("perimeter_px", "float", "Length of the outline", "px", nullable=True, minimum=0, decimals=2),
    Column("centroid_x_px", "float", "Centroid", "px", nullable=True, minimum=0, decimals=2),
    Column("centroid_y_px", "float", "Centroid", "px", nullable=True, minimum=0, decimals=2),
    Column("surface_area_um", "float", "Area of the embryo", "um^2", nullable=True, minimum=0, decimals=4),
    Column("area_um2", "float", "As surface_area_um", "um^2", nullable=True, minimum=0, decimals=4),
    Column("perimeter_um", "float", "Length of the outline", "um", nullable=True, minimum=0, decimals=4),
    Column("centroid_x_um", "float", "Centroid", "um", nullable=True, minimum=0, decimals=4),
    Column("centroid_y_um", "float", "Centroid", "um", nullable=True, minimum=0, decimals=4),
    Column("length_um", "float", "Extent along the first principal axis", "um", nullable=True, minimum=0, decimals=4),
    Column("width_um", "float", "Extent along the second principal axis", "um", nullable=True, minimum=0, decimals=4),
    Column("solidity", "float", "Share of the convex hull covered", nullable=True, minimum=0, maximum=1, decimals=4),
    Column("speed_um_per_s", "float", "Speed since this embryo's last frame", "um/s", nullable=True, minimum=0),
)
_VIABILITY = (
    Column("body_transmission", "float", "Body's grey over the background's", nullable=True, minimum=0, decimals=4),
    Column("body_texture", "float", "Local contrast inside the body", nullable=True, minimum=0, decimals=5),
    Column("fraction_alive", "float", "Share alive, 1 to 0", nullable=True, minimum=0, maximum=1, decimals=4),
    Column("fraction_alive_reason", "str", "Remark on the share", nullable=True),
)
_FLAGS = tuple(
    column
    for name in FLAGS
    for column in (
        Column(name, "bool", "Raised, not raised, or unknown", nullable=True),
        Column(f"{name}_reason", "str", "Why it is unknown", nullable=True),
    )
)
_VERDICT = (
    Column("sam2_qc_flag", "bool", "Whether the mask carries any flag"),
    Column("sam2_qc_flags", "str", "Flags of the mask, joined by commas", nullable=True),
    Column("use_embryo_flag", "bool", "Provisional: no flag known here excludes the row"),
    Column("use_embryo_reason", "str", "What excludes the row, and what is unknown", nullable=True),
    Column("curated", "str", "Columns that a person has overridden", nullable=True),
)
_PLATE = (
    Column("predicted_stage_hpf", "float", "Stage from start age, time and temperature", "hpf", nullable=True),
    Column("predicted_stage_hpf_reason", "str", "Why there is no stage", nullable=True),
    *PLATE_COLUMNS,
    Column("start_age_label", "str", "Start age where the workbook holds a name", nullable=True),
    Column("temperature_source", "str", "workbook or recipe", nullable=True),
    Column("master_perturbation", "str", "Chemical perturbation, else genotype", nullable=True),
    Column("short_pert_name", "str", "Short name from the lab's key", nullable=True),
    Column("phenotype", "str", "Phenotype from the lab's key", nullable=True),
    Column("control_flag", "bool", "Whether the lab's key says control", nullable=True),
    Column("pert_type", "str", "Type of perturbation from the lab's key", nullable=True),
    Column("background", "str", "Genetic background from the lab's key", nullable=True),
    Column("microscope", "str", "Microscope"),
    Column("Objective", "str", "Objective", nullable=True),
)
CONTRACT = TableContract(
    "embryo_metadata",
    (*_IDS, *_GEOMETRY, *_SHAPE, *_VIABILITY, *_FLAGS, *_VERDICT, *_PLATE),
    key=("snip_id",),
    order=("video_id", "time_int", "embryo_id"),
)
