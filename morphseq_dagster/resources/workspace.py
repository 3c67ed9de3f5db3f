"""The workspace as a Dagster resource: data root, registry and the place of each step.

Holds the translation from configuration to objects only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from morphseq_dagster.cluster.suspend.worker import may_suspend, note_site
from morphseq_dagster.engine.executors.local import Executor, make_executor
from morphseq_dagster.engine.executors.runner_outcome import DEFAULT_REGISTRY, SLURM
from morphseq_dagster.engine.workspace import Workspace, load_registry
from morphseq_dagster.settings import MachineSettings, PlacesSettings


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
    registry: str = DEFAULT_REGISTRY

    @classmethod
    def from_settings(cls, settings: MachineSettings, *, registry: str = DEFAULT_REGISTRY) -> WorkspaceResource:
        """Make the resource of a machine's settings."""
        return cls(
            data_root=str(settings.data_root),
            place=settings.place,
            places=settings.places.model_dump_json(),
            weights=json.dumps({name: str(path) for name, path in settings.weights.named().items()}),
            cpus=settings.cpus,
            registry=registry,
        )

    def open(self) -> Workspace:
        """Open the workspace."""
        weights = {name: Path(path) for name, path in json.loads(self.weights).items()}
        return Workspace(Path(self.data_root), load_registry(self.registry), weights)

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

    def place_of(self, step: str, *, experiment: str = "", run_id: str = "") -> Executor:
        """Place where a step of an experiment runs; a run whose process may leave does not wait for its jobs."""
        places = PlacesSettings.model_validate_json(self.places)
        name = self.place_names()(step, experiment)
        park = name == SLURM and places.slurm is not None and may_suspend(run_id)
        if park and places.slurm is not None:
            note_site(run_id, data_root=Path(self.data_root), slurm=places.slurm)
        return make_executor(name, registry=self.registry, slurm=places.slurm, park=park, cpus=self.cpus)
