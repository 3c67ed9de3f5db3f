"""Diamond root: a data root of the diamond pipeline as tests look at it and harm it.

What lies on the disk is read in the ledger's values (`ledger.py`); there are plans by a clock of one's own, damage, and
a death at any change of the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.planner.facts import read_facts
from morphseq_dagster.engine.planner.rules import plan_experiment
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.toy import LENGTHS, Summary
from tests.support.clock import JumpingClock
from tests.support.diamond import DIAMOND_PIPELINE, Sentence
from tests.support.ledger import Lab

_DEAD_PROCESS: Final = 2**22 + 1
"""Above the largest number that Linux gives."""
_WRITING: Final = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"})


class DiamondRoot:
    """A data root, the lab that it belongs to, and the clock of the machine."""

    root: Path
    lab: Lab
    clock: JumpingClock

    @property
    def workspace(self) -> Workspace:
        """The data root, seen through steps of the lab's versions."""
        return self.open(self.root)

    def open(self, root: Path) -> Workspace:
        """Open a data root with steps of the lab's versions."""
        steps = tuple(replace(spec, version=self.lab.versions[spec.name]) for spec in DIAMOND_PIPELINE.steps)
        return Workspace(root, replace(DIAMOND_PIPELINE, steps=steps))

    def plan(self, experiment: str, **options: Any) -> ExperimentPlan:  # noqa: ANN401 - of the scans
        """Plan as `morphseq stale` does, and keep what was looked at; with options of the scans, keep nothing."""
        scans = Scans(self.workspace.layout, now=self.clock.now(), **options)
        (facts,) = read_facts(self.workspace, experiments=[experiment], scans=scans)
        if not options:
            scans.save()
        return plan_experiment(facts, pipeline=self.workspace.pipeline)

    def output(self, experiment: str, step: str) -> Path:
        """Primary file of an artifact."""
        return self.workspace.output(step, experiment=experiment)

    def files(self, experiment: str, step: str) -> list[Path]:
        """Primary file and pictures of an artifact, as far as they are there."""
        folders = self.workspace.layout.folders(step, experiment=experiment)
        pictures = sorted(path for folder in folders for path in folder.glob("*.txt"))
        return [path for path in (self.output(experiment, step), *pictures) if path.exists()]

    def read(self, experiment: str, step: str) -> Any:  # noqa: ANN401 - content as the ledger has it
        """Content that lies on the disk; None where nothing does."""
        path = self.output(experiment, step)
        if not path.exists():
            return None
        data = path.read_bytes()
        if step == "lengths":
            table = LENGTHS.decode(data, where=step)
            columns = (table["well"].map(str), table["letters"].map(int), table["share"].map(float))
            return tuple(zip(*columns, strict=True))
        if step == "summary":
            summary = Summary.model_validate_json(data)
            return (summary.wells, summary.letters)
        if step == "sentence":
            sentence = Sentence.model_validate_json(data)
            return (sentence.words, sentence.letters)
        folders = self.workspace.layout.folders(step, experiment=experiment)
        listed = [self.root / name for name in json.loads(data)["files"]]
        texts = [{p.stem: p.read_text() for p in listed if p.parent == folder} for folder in folders]
        if sorted(listed) != sorted(p for folder in folders for p in folder.glob("*.txt")):
            raise AssertionError(f"{path} does not list the pictures of its folders")
        return tuple((well, *(part[well] for part in texts)) for well in sorted(texts[0]))

    def write_recipe(self, name: str, text: str) -> None:
        """Write the recipe of the lab (`default`) or of an experiment."""
        path = self.root / "recipes" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def damage(self, path: Path, harm: str) -> None:
        """Change a file so that no further damage can bring the old content back."""
        data = path.read_bytes()
        moment = path.stat().st_mtime + 7
        match harm:
            case "append":
                path.write_bytes(data + b"\n")
            case "truncate":
                path.write_bytes(b"")
            case "same size":
                path.write_bytes(b"\xff" + data[1:])
            case "replace":
                path.with_name("editor").write_bytes(data + b" ")
                path.with_name("editor").rename(path)
            case _:
                path.unlink()
                return
        os.utime(path, (moment, moment))

    def touch(self, path: Path, *, copied: bool) -> None:
        """Give a file another time or, as a restored backup does, another inode; its content stays."""
        if copied:
            shutil.copyfile(path, path.with_name("copy"))
            path.with_name("copy").rename(path)
        else:
            self.clock.stamp(path)

    def edit(self, path: Path) -> None:
        """Edit a table or document so that it still fulfils its contract."""
        if path.suffix == ".csv":
            table = LENGTHS.decode(path.read_bytes(), where="table")
            path.write_bytes(LENGTHS.encode(table.assign(letters=table["letters"] + 1), where="table"))
        else:
            value = json.loads(path.read_bytes())
            path.write_text(json.dumps({**value, "letters": value["letters"] + 1}, indent=1) + "\n")
        self.clock.stamp(path)

    def write_older_table(self, experiment: str, words: tuple[tuple[str, str], ...]) -> Path:
        """Write `lengths` as an older program has it: shares that are not ours, and a column too many."""
        path = self.root / "older" / f"{experiment}_lengths.csv"
        path.parent.mkdir(exist_ok=True)
        rows = [f"{well},{len(word)},0.5,of the older program" for well, word in sorted(words)]
        path.write_text("\n".join(["well,letters,share,remark", *rows]) + "\n")
        return path

    def copy_inputs(self, root: Path) -> Path:
        """Copy raw data, recipes and weights into another data root."""
        root.mkdir()
        for source in (self.root / name for name in ("words", "recipes", "mirror_weights.txt")):
            if source.is_dir():
                shutil.copytree(source, root / source.name)
            elif source.exists():
                shutil.copy(source, root / source.name)
        return root


def leave_claim(path: Path) -> None:
    """Leave the claim of a process that is dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"host": host_name(), "pid": _DEAD_PROCESS, "process_start": "1", "run_id": "r", "token": "t"}
    path.write_text(json.dumps({**values, "taken_at": "2026-01-01T00:00:00+00:00"}))


def die_at(number: int) -> None:
    """Have the kernel end this process at the n-th time that it changes the disk."""
    left = [number]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _WRITING:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
