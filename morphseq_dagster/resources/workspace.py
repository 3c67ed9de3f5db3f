"""The workspace as a Dagster resource: data root, pipeline and the place of each step.

Configuration is translated to objects here; executors are made in `executors.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import dagster as dg

from morphseq_dagster.engine.executors.protocol import Executor, WorkLeft
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.resources.executors import make_executor
from morphseq_dagster.settings.machine import MachineSettings, PlacesSettings
from morphseq_dagster.settings.slurm import SLURM, SUSPENSION_VARIABLE


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Data root and places of this machine."""

    data_root: str
    place: str = "process"
    places: str = "{}"
    """Section `places` of the machine settings, as JSON: place per step and experiment, and the cluster."""
    weights: str = "{}"
    """Where weights lie, by name, as JSON."""
    cpus: int | None = None
    """Processors for the wells of a step on this machine."""
    pipeline: str
    """`module:attribute` of the pipeline."""

    @classmethod
    def from_settings(cls, settings: MachineSettings, *, pipeline: str) -> WorkspaceResource:
        """Make the resource of a machine's settings."""
        return cls(
            data_root=str(settings.data_root),
            place=settings.place,
            places=settings.places.model_dump_json(),
            weights=json.dumps({name: str(path) for name, path in settings.weights.named().items()}),
            cpus=settings.cpus,
            pipeline=pipeline,
        )

    def open(self) -> Workspace:
        """Open the workspace."""
        weights = {name: Path(path) for name, path in json.loads(self.weights).items()}
        return Workspace(Path(self.data_root), load_pipeline(self.pipeline), weights)

    def place_names(self) -> Callable[[str, str], str]:
        """Make the look-up of the name of the place where a step (first) of an experiment (second) runs."""
        places = PlacesSettings.model_validate_json(self.places)
        steps = places.steps

        def look_up(step: str, experiment: str) -> str:
            return places.experiments.get(experiment, {}).get(step, steps.get(step, self.place))

        return look_up

    @property
    def chained(self) -> bool:
        """Whether jobs of the cluster go on with the steps that follow."""
        return PlacesSettings.model_validate_json(self.places).chained

    def may_suspend(self, run_id: str) -> bool:
        """Whether the run's process may leave while the cluster works for it, and another one comes back."""
        if SUSPENSION_VARIABLE not in os.environ:
            return False
        from morphseq_dagster.cluster.suspend.worker import may_suspend

        return may_suspend(run_id)

    def leave(self, left: WorkLeft, *, instance: dg.DagsterInstance, run: dg.DagsterRun, step_key: str) -> NoReturn:
        """End this process, whose executor has left its work going on; another one comes back for the run."""
        from morphseq_dagster.cluster.executor import SuspendedRun
        from morphseq_dagster.cluster.suspend.worker import leave

        if not isinstance(left, SuspendedRun):
            raise left
        leave(left, instance=instance, run=run, step_key=step_key)

    def executor_of(self, step: str, *, experiment: str = "", run_id: str = "") -> Executor:
        """Executor of a step of an experiment; a run whose process may leave does not wait for its jobs."""
        places = PlacesSettings.model_validate_json(self.places)
        name = self.place_names()(step, experiment)
        suspend = name == SLURM and places.slurm is not None and self.may_suspend(run_id)
        if suspend and places.slurm is not None:
            from morphseq_dagster.cluster.suspend.worker import note_site

            note_site(run_id, data_root=Path(self.data_root), slurm=places.slurm)
        return make_executor(
            name,
            pipeline=self.pipeline,
            data_root=Path(self.data_root),
            cpus=self.cpus,
            slurm=places.slurm,
            suspend=suspend,
        )
