"""The workspace as a Dagster resource: data root, registry and the place of each step.

Holds the translation from configuration to objects only.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from morphseq_dagster.places.place import DEFAULT_REGISTRY, Place, make_place
from morphseq_dagster.places.runner import load_registry
from morphseq_dagster.settings import MachineSettings
from morphseq_dagster.steps.workspace import Workspace


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Data root and places of this machine."""

    data_root: str
    place: str = "process"
    places: dict[str, str] = {}  # noqa: RUF012 - a pydantic field, copied per instance
    registry: str = DEFAULT_REGISTRY

    @classmethod
    def from_settings(cls, settings: MachineSettings, *, registry: str = DEFAULT_REGISTRY) -> WorkspaceResource:
        """Make the resource of a machine's settings."""
        return cls(
            data_root=str(settings.data_root),
            place=settings.place,
            places=dict(settings.places),
            registry=registry,
        )

    def open(self) -> Workspace:
        """Open the workspace."""
        return Workspace(Path(self.data_root), load_registry(self.registry))

    def place_of(self, step: str) -> Place:
        """Place where a step runs."""
        return make_place(self.places.get(step, self.place), registry=self.registry)
