"""Checkpoints and publication of an image set of many files, with every flush to the disk and with none.

The difference is the price of surviving a power cut. `python -m benchmarks.storage FOLDER sync|nosync` publishes once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.measure import Line, run_children
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.checkpoints import WellPayload, save_checkpoint
from morphseq_dagster.engine.storage.commit import commit
from morphseq_dagster.engine.storage.records import Record, describe_output
from morphseq_dagster.engine.storage.staging import FolderStage, Staged

WELLS, FILES = 20, 2000
_BYTES = 20_000
_EXPERIMENT = "20240418_files"


def measure_storage(scratch: Path, *, repeats: int) -> list[Line]:
    """Measure one publication both ways."""
    command = ["-m", "benchmarks.storage", str(scratch / "storage")]
    costs = run_children({way: [*command, way] for way in ("sync", "nosync")}, repeats=repeats)
    name = f"publishing {FILES} files"
    lines = [Line(name, words, costs[way].cpu_s, "CPU-s") for way, words in _WORDS.items()]
    lines += [Line(name, f"{words}, wall", costs[way].wall_s, "s") for way, words in _WORDS.items()]
    return [
        *lines,
        Line(name, "with over without, CPU", costs["sync"].cpu_s / costs["nosync"].cpu_s, "x"),
        Line(name, "with over without, wall", costs["sync"].wall_s / costs["nosync"].wall_s, "x"),
    ]


_WORDS = {"sync": "with fsync", "nosync": "without fsync"}


def publish(root: Path) -> None:
    """Finish wells one after the other and publish them all as an image set, replacing an earlier one."""
    layout = Layout(root)
    (folder,) = layout.folders("organized_frames", experiment=_EXPERIMENT)
    primary = layout.primary("organized_frames", experiment=_EXPERIMENT)
    stage = FolderStage(layout, folders=(folder,))
    for well in range(WELLS):
        files: dict[str, bytes | Path] = {
            f"{well:02d}_{number:04d}.jpg": number.to_bytes(4, "big") * (_BYTES // 4)
            for number in range(FILES // WELLS)
        }
        work = layout.checkpoints("organized_frames", experiment=_EXPERIMENT) / f"{well:02d}"
        done = save_checkpoint(work, key="0", payload=WellPayload({}, files))
        for name, path in done.files.items():
            stage.add_link(folder / "images" / name, source=Path(str(path)))
    units, sha256 = stage.finish(primary, manifest=b"{}\n")
    staged = Staged(primary=primary, units=units, sha256=sha256, data_version=sha256)
    output = describe_output(
        layout,
        primary=primary,
        staged_primary=staged.staged_primary,
        sha256=sha256,
        folders=tuple((unit.target, unit.temporary) for unit in units),
    )
    commit(layout, staged=staged, record=_record(output_of=output.model_dump()))


def _record(*, output_of: dict[str, object]) -> Record:
    return Record.model_validate(
        {
            "step": "organized_frames",
            "experiment": _EXPERIMENT,
            "data_version": "0",
            "output": output_of,
            "inputs": (),
            "step_version": 1,
            "recipe": {},
            "recipe_hash": "0",
            "request_key": "0",
            "run_id": "benchmark",
            "place": "process",
            "host": "nowhere",
            "pid": 1,
            "started_at": "",
            "finished_at": "",
            "seconds": 0.0,
            "cpu_seconds": 0.0,
        }
    )


if __name__ == "__main__":
    if sys.argv[2] == "nosync":
        os.fsync = lambda _: None  # type: ignore[assignment]
    publish(Path(sys.argv[1]))
