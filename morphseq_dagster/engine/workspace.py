"""Workspace: one data root with its pipeline and recipes - what assets, command line and status all start from.

Opening a workspace touches no file. What a request reads is looked up in `requests.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from morphseq_dagster.engine.contract.recipe import Recipe, load_recipe
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.requests import build_request, output_path


@dataclass(frozen=True)
class Workspace:
    """One data root seen through one pipeline, on a machine whose weights lie where it says."""

    data_root: Path
    pipeline: Pipeline
    weights: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        """Paths below the data root."""
        return self.pipeline.layout(self.data_root)

    def recipe(self, experiment: str) -> Recipe:
        """Resolve an experiment's recipe from the files as they are now."""
        sections = {spec.name: spec.recipe for spec in self.pipeline.steps}
        return load_recipe(self.layout.recipes(experiment), sections=sections)

    def output(self, step: str | StepSpec, *, experiment: str, recipe: Recipe | None = None) -> Path:
        """Primary output of a step, named or given."""
        spec = self.pipeline.spec(step) if isinstance(step, str) else step
        recipe = recipe or (self.recipe(experiment) if spec.variant is not None else Recipe({}))
        return output_path(spec, layout=self.layout, experiment=experiment, recipe=recipe)

    def request(self, spec: StepSpec, *, experiment: str, run_id: str = "", force: bool = False) -> StepRequest:
        """Request that a step would run with right now."""
        return build_request(
            spec,
            pipeline=self.pipeline,
            layout=self.layout,
            experiment=experiment,
            recipe=Recipe({}) if self.pipeline.is_cohort(spec) else self.recipe(experiment),
            run_id=run_id,
            force=force,
            weights=self.weights,
        )
