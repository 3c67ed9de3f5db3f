"""The table of changes: what a person, a disk or a release can change, and which steps that recomputes.

`docs/staleness.md` shows it, the tests prove it on a small experiment: what computes is what stands here, no more and
no less, each step once. Every new step, input or parameter adds its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from morphseq_dagster.morphseq.pipeline import MORPHSEQ

COHORT_STEP: Final = "cohort_final"
ALL_STEPS: Final = (*(spec.name for spec in MORPHSEQ.steps), COHORT_STEP)
"""Every step of the pipeline in its order, and the cohort."""
_END: Final = ("embryo_latents_final", COHORT_STEP)
_STAGED: Final = ("qc_staged", *_END)
_EMBRYOS: Final = ("embryo_metadata", *_STAGED)
_PLATE: Final = ("plate_metadata", "built_metadata", "experiment_metadata", "sam2_metadata", *_EMBRYOS)
_UNTOUCHED: Final = ("plate_metadata", "gdino_detections", "exported_masks", "sam2_metadata")


@dataclass(frozen=True)
class Change:
    """One row.

    Parameters
    ----------
    name
        Short name, by which the test finds how to make the change.
    what
        What is changed, in words.
    recomputes
        Steps that compute again; all others are found unchanged.
    why
        Where the chain stops and why, or what is special; may be empty.
    """

    name: str
    what: str
    recomputes: tuple[str, ...] = ()
    why: str = ""


CHANGES: Final = (
    Change("nothing", "nothing at all"),
    Change("raw_touched", "a raw picture is touched", ("raw_manifest",), "listed again; its version hashes content"),
    Change("raw_rewritten", "a raw picture is written again, same bytes", ("raw_manifest",), "as above"),
    Change(
        "raw_pixel",
        "one grey level of one background pixel of a raw picture",
        tuple(s for s in ALL_STEPS if s not in (*_UNTOUCHED, *_END)),
        "detections and label pictures come out equal, in the end the tables too",
    ),
    Change(
        "raw_block",
        "a patch of the embryo in a raw picture",
        tuple(s for s in ALL_STEPS if s not in _UNTOUCHED),
        "box and outline stay where they are; pictures never touch the plate's table",
    ),
    Change(
        "well_added",
        "a well is added to the acquisition",
        tuple(s for s in ALL_STEPS if s not in ("plate_metadata", "latents", *_STAGED)),
        "here it is empty; steps that work well by well compute the new well only",
    ),
    Change("raw_folder_gone", "the raw folder is archived elsewhere", (), "results stand; only the listing is held"),
    Change("workbook_touched", "the workbook is touched"),
    Change(
        "workbook_saved", "the workbook is saved again, same cells", ("plate_metadata",), "the table comes out equal"
    ),
    Change("sheet_medium", "one cell of the sheet `medium`", _PLATE, "no detection, no mask, no snip"),
    Change("sheet_genotype", "one cell of the sheet `genotype`", _PLATE, "as above"),
    Change("sheet_chem_perturbation", "one cell of the sheet `chem_perturbation`", _PLATE, "as above"),
    Change("sheet_start_age_hpf", "one cell of the sheet `start_age_hpf`", _PLATE, "as above"),
    Change("sheet_embryos_per_well", "one cell of the sheet `embryos_per_well`", _PLATE, "as above"),
    Change("sheet_temperature", "one cell of the sheet `temperature`", _PLATE, "as above"),
    Change(
        "sheet_pair",
        "one cell of the sheet `pair`",
        tuple(s for s in _PLATE if s != "sam2_metadata"),
        "the SAM2 table has no such column",
    ),
    Change(
        "sheet_unused_well",
        "a cell of a well without pictures",
        ("plate_metadata", "built_metadata"),
        "the frame table has rows of wells with pictures only",
    ),
    Change(
        "threshold",
        "`gdino_detections.confidence_threshold`",
        ("gdino_detections", "sam2_tracks"),
        "the document names its threshold; the masks made from it come out equal",
    ),
    Change(
        "detector",
        "a parameter of the chosen detector",
        ("gdino_raw", "gdino_detections", "sam2_tracks"),
        "here it moves no box; the masks come out equal",
    ),
    Change("detector_not_chosen", "a parameter of a detector that is not chosen, such as `gdino_raw.prompt`"),
    Change("snip_quality", "`snips.jpeg_quality`", ("snips", "qc_staged", "latents", *_END)),
    Change("final_rows", "`embryo_latents_final.rows`", ("embryo_latents_final",), "here every row is usable"),
    Change("lab_recipe_overridden", "a parameter of the lab's recipe that the experiment's own overrides"),
    Change("recipe_reformatted", "a recipe file with comments, blanks and values equal to the defaults"),
    Change(
        "weights",
        "the content of a weights file",
        ("gdino_raw",),
        "shown with the classical detector, which uses none: its detections come out equal",
    ),
    Change("weights_touched", "a weights file is touched"),
    Change("weights_moved", "a weights file gets another place, in the machine's settings too"),
    Change("weights_not_wanted", "the machine names weights for backends that no recipe chooses"),
    Change("version", "the version of the step `sam2_segmentations`", ("sam2_segmentations",), "equal bytes"),
    Change("comment", "a comment, a log line or the formatting of a step's code"),
    Change("curation", "overrides by hand appear", _EMBRYOS),
    Change("perturbation_key", "the lab's perturbation key appears", _EMBRYOS),
    Change("area_reference", "the area reference appears", _STAGED),
    Change("stage_reference", "the stage reference appears", _STAGED),
    Change("output_touched", "an output is touched or copied", (), "its content is hashed once"),
    Change("output_edited", "a table is edited by hand", ("sam2_metadata",), "made again as it was"),
    Change(
        "output_kept",
        "a table is edited by hand and kept",
        tuple(s for s in _PLATE if s != "plate_metadata"),
        "what follows is made from the edit, which is never overwritten",
    ),
    Change("output_kept_then_input_changed", "... and then an input of the kept table changes", (), "the edit stands"),
    Change("output_kept_then_discarded", "an edit is kept, then discarded", ("plate_metadata",), "made as it was"),
    Change("output_deleted", "an output is deleted", ("embryo_metadata",), "made as it was"),
    Change("picture_edited", "one picture of an image set is edited", ("snips",), "made as it was"),
    Change("picture_deleted", "one picture of an image set is deleted", ("exported_masks",), "made as it was"),
    Change("output_pruned", "an output is removed to save space", (), "counts as there"),
    Change(
        "output_pruned_and_needed",
        "... and a step after it must run",
        ("sam2_tracks", "sam2_segmentations"),
        "its bytes are needed again",
    ),
    Change(
        "record_lost",
        "a provenance record is lost, and `morphseq reconcile --discard` gives the file up",
        ("built_metadata",),
        "until then a run refuses to replace the file",
    ),
    Change("record_lost_and_adopted", "... or `morphseq adopt` brings it back", (), "the file was checked, not made"),
    Change(
        "older_file_adopted",
        "an older program's detections are adopted in the place of an output",
        ("sam2_tracks",),
        "never computed themselves; the tracks read them and come out equal",
    ),
    Change("experiment_added", "another experiment's raw folder appears", (), "a member once its final table is there"),
    Change("experiment_added_and_run", "another experiment is run to its end", (COHORT_STEP,)),
    Change("experiment_removed", "another experiment's final table is removed", (COHORT_STEP,)),
    Change("experiment_renamed", "raw folder and workbook get another name", ALL_STEPS, "a new experiment"),
    Change("dead_lock", "a killed process left its lock", (), "a lock says who works, not what is stale"),
)


def draw_table() -> list[str]:
    """Lines of the table in Markdown."""
    head = ["| What changes | What computes again | Why no more |", "| --- | --- | --- |"]
    return head + [f"| {change.what} | {_name(change.recomputes)} | {change.why} |" for change in CHANGES]


def _name(steps: tuple[str, ...]) -> str:
    if steps == ALL_STEPS:
        return "everything"
    absent = [step for step in ALL_STEPS if step not in steps]
    if len(absent) == 1:
        return f"everything but `{absent[0]}`"
    return ", ".join(f"`{step}`" for step in ALL_STEPS if step in steps) or "nothing"
