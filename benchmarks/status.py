"""`morphseq status` on experiments whose records are made up: all steps done, files of a few bytes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import CLI, Line, run_children
from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import OutputState, Record, WellState, encode
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

_LIMITS_S = {1: 1.0, 200: 2.0}
"""Number of experiments and the CPU-seconds that status may take, its start included."""
_WELLS = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
_PER_WELL = frozenset(
    {"ff_images", "organized_frames", "gdino_raw", "sam2_tracks", "exported_masks", "embryo_metadata", "snips"}
)


def measure_status(scratch: Path, *, repeats: int) -> list[Line]:
    """Measure status for one experiment and for many."""
    variants = {}
    for count in _LIMITS_S:
        root = scratch / f"status_{count}"
        write_records(root, count=count)
        variants[str(count)] = [*CLI, "status", "--data-root", str(root)]
    costs = run_children({"nothing": ["-c", ""], **variants}, repeats=repeats)
    lines = [
        Line(
            "status", f"{count} experiments, {count * len(MORPHSEQ.steps)} records", costs[str(count)].cpu_s, "CPU-s", s
        )
        for count, s in _LIMITS_S.items()
    ]
    return [*lines, Line("status", "python that does nothing", costs["nothing"].cpu_s, "CPU-s")]


def write_records(root: Path, *, count: int) -> None:
    """Write raw folders, stub artifacts and full records (96 wells) of several experiments."""
    workspace = Workspace(root, MORPHSEQ)
    for number in range(count):
        experiment = f"{20240101 + number % 28}_plate{number:03d}"
        (raw_folder(workspace.layout, "Keyence", experiment=experiment) / "XY01").mkdir(parents=True)
        for spec in MORPHSEQ.steps:
            _write_record(
                workspace.layout, spec, experiment=experiment, primary=workspace.output(spec, experiment=experiment)
            )


def _write_record(layout: Layout, spec: StepSpec, *, experiment: str, primary: Path) -> None:
    data = b"{}\n"
    primary.parent.mkdir(parents=True, exist_ok=True)
    primary.write_bytes(data)
    status = primary.stat()
    recipe = spec.recipe.model_validate({}).model_dump(mode="json")
    wells = {well: WellState(key=hash_bytes(well.encode()), status="ok") for well in _WELLS}
    record = Record(
        step=spec.name,
        experiment=experiment,
        data_version=hash_bytes(data),
        output=OutputState(
            path=layout.relative(primary),
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            sha256=hash_bytes(data),
            folders=tuple(layout.relative(f) for f in layout.folders(spec.name, experiment=experiment)),
        ),
        inputs=(),
        step_version=spec.version,
        recipe=recipe,
        recipe_hash=hash_bytes(repr(recipe).encode()),
        request_key=hash_bytes(f"{experiment} {spec.name}".encode()),
        counts={"rows": 1000},
        wells=wells if spec.name in _PER_WELL else {},
        run_id="benchmark",
        place="process",
        host="nowhere",
        pid=1,
        started_at="2024-04-18T12:00:00+00:00",
        finished_at="2024-04-18T12:01:00+00:00",
        seconds=60.0,
        cpu_seconds=60.0,
    )
    for folder in layout.folders(spec.name, experiment=experiment):
        folder.mkdir(parents=True, exist_ok=True)
    layout.record(primary).write_bytes(encode(record))
