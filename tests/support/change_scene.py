"""Scene of a change: a data root of one small experiment on which a change is made, and what computes then.

The changes are in the table (`changes.py`); how each is made is in its test.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.experiments import FRAMES_EXPERIMENT

EXPERIMENT: Final = FRAMES_EXPERIMENT


@dataclass
class Scene:
    """A data root on which one change is made, and which experiment is looked at then."""

    root: Path
    pipeline: Pipeline = MORPHSEQ
    experiment: str = EXPERIMENT
    left_out: tuple[str, ...] = ()
    weights: dict[str, Path] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        """The data root as it is seen now."""
        return Workspace(self.root, self.pipeline, self.weights)

    def output(self, step: str) -> Path:
        """Primary file of an artifact of the experiment that was made first."""
        return self.workspace.output(step, experiment=EXPERIMENT)

    @property
    def raw(self) -> Path:
        """Raw folder of the experiment that is looked at."""
        return raw_folder(self.workspace.layout, "Frames", experiment=self.experiment)

    def picture(self) -> Path:
        """First raw picture, free to be changed in place."""
        return own(min(self.raw.glob("*.png")))

    def replace_step(self, name: str, **values: Any) -> None:  # noqa: ANN401 - fields of a step
        """Exchange fields of a step, as another release of the code does."""
        steps = tuple(replace(spec, **values) if spec.name == name else spec for spec in self.pipeline.steps)
        self.pipeline = replace(self.pipeline, steps=steps)

    def write_recipe(self, text: str, *, name: str = EXPERIMENT) -> None:
        """Write the recipe of an experiment, or of the lab (`default`)."""
        path = self.root / "recipes" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run(self) -> list[str]:
        """Run every step and the cohort; return what computed."""
        specs = [spec for spec in self.pipeline.steps if spec.name not in self.left_out]
        computed = [spec.name for spec in specs if run_step(self.workspace, spec, self.experiment)]
        cohort = self.pipeline.cohort
        return computed if cohort is None else computed + [cohort.name] * run_step(self.workspace, cohort, COHORT)


def run_step(workspace: Workspace, spec: StepSpec, experiment: str, **options: Any) -> bool:  # noqa: ANN401
    """Run one step through the session; tell whether it computed."""
    with lock_step(spec, workspace=workspace, experiment=experiment, run_id="table", **options) as session:
        if session.cached is not None:
            return False
        finish(workspace.layout, outcome=session.run())
    return True


def own(path: Path) -> Path:
    """Part a file from the baseline that it is a link to, so that it may be changed in place."""
    status = path.stat()
    copy = path.with_name(path.name + ".own")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)
    return path
