"""Frame table: one row per well and time, geometry and times joined with the plate (spec, science 3.1)."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.morphseq.contracts.plate_metadata import PLATE_COLUMNS

FRAME_COLUMNS = (
    Column("time_string", "str", "Frame number as text, T0000"),
    Column("Height (um)", "float", "Height of the raw field", "um", nullable=True, minimum=0),
    Column("Height (px)", "int", "Height of the raw field", "px", minimum=1),
    Column("Width (um)", "float", "Width of the raw field", "um", nullable=True, minimum=0),
    Column("Width (px)", "int", "Width of the raw field", "px", minimum=1),
    Column("um_per_px", "float", "Pixel size", "um/px", nullable=True, minimum=0),
    Column("BF Channel", "int", "Channel number of brightfield", nullable=True, minimum=0),
    Column("Channel", "str", "Name of the channel", nullable=True),
    Column("Objective", "str", "Objective", nullable=True),
    Column("Time (s)", "float", "Acquisition time on the microscope's clock", "s", nullable=True),
    Column("Time Rel (s)", "float", "Time since the first frame of the experiment", "s", nullable=True, minimum=0),
    Column("microscope", "str", "Microscope"),
    Column("nd2_series_num", "int", "Series of the ND2 file, from 1", nullable=True, minimum=1),
)
CONTRACT = TableContract(
    "built_metadata",
    (
        Column("well_id", "str", "Experiment and well"),
        Column("well", "str", "Well A01..H12"),
        Column("time_int", "int", "Frame number", minimum=0),
        *FRAME_COLUMNS,
        Column("experiment_date", "str", "Experiment id (its old name)"),
        *PLATE_COLUMNS,
        Column("temperature_source", "str", "workbook or recipe", nullable=True, allowed=("workbook", "recipe")),
        Column("start_age_label", "str", "Start age where the workbook holds a name instead of hours", nullable=True),
        Column("well_qc_flag", "str", "Judgement of the well, not in use", nullable=True),
    ),
    key=("well", "time_int"),
    order=("well", "time_int"),
    extra=True,
    may_be_empty=False,
)
