"""Inventory: every artifact that lies below the data root, with or without a record, found by its path alone.

This is the way from the layout's templates back to step, key and variant; no file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.engine.layout import COHORT, FAILURE_SUFFIX, RECORD_SUFFIX, Artifact
from morphseq_dagster.engine.workspace import Workspace


@dataclass(frozen=True)
class Located:
    """One artifact of one experiment at its place.

    Parameters
    ----------
    step, experiment, variant
        What it is; the cohort's experiment is `cohort`.
    primary
        File that readers open first.
    has_record, has_file
        Which of the two are there.
    """

    step: str
    experiment: str
    variant: str
    primary: Path
    has_record: bool
    has_file: bool


def list_artifacts(workspace: Workspace, *, experiments: Collection[str] | None = None) -> tuple[Located, ...]:
    """List what has a record or a primary file, by experiment and then in the layout's order.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names to look for; all when None.
    """
    layout = workspace.layout
    order = {artifact.name: number for number, artifact in enumerate(layout.artifacts)}
    found = [entry for artifact in layout.artifacts for entry in _find(workspace, artifact)]
    wanted = [e for e in found if experiments is None or e.experiment in experiments]
    return tuple(sorted(wanted, key=lambda e: (e.experiment == COHORT, e.experiment, order[e.step], e.variant)))


def locate(workspace: Workspace, path: Path) -> Located | None:
    """Find the artifact that a path belongs to: its primary file, its record, or a picture in its folders."""
    layout = workspace.layout
    for artifact in layout.artifacts:
        for template in (artifact.primary, *artifact.folders):
            pattern = _pattern(template)
            for candidate in (path, *path.parents):
                if not candidate.is_relative_to(layout.data_root):
                    break
                match = pattern.fullmatch(_without_suffix(layout.relative(candidate)))
                if match is None or (template == artifact.primary and candidate != path):
                    continue
                experiment, variant = _parts(match)
                if experiment != COHORT and workspace.pipeline.keys.refuse(experiment) is not None:
                    continue
                primary = layout.primary(artifact.name, experiment=experiment, variant=variant)
                return Located(
                    artifact.name, experiment, variant, primary, layout.record(primary).exists(), primary.exists()
                )
    return None


def _find(workspace: Workspace, artifact: Artifact) -> Iterator[Located]:
    layout = workspace.layout
    pattern = _pattern(artifact.primary)
    wildcard = artifact.primary.replace("{exp}", "*").replace("{variant}", "*")
    names: dict[str, list[bool]] = {}
    for suffix, place in (("", 1), (RECORD_SUFFIX, 0)):
        for path in layout.data_root.glob(wildcard + suffix):
            name = layout.relative(path)
            if suffix == "" and name.endswith((RECORD_SUFFIX, FAILURE_SUFFIX)):
                continue
            names.setdefault(name.removesuffix(suffix), [False, False])[place] = True
    for name, (has_record, has_file) in names.items():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        experiment, variant = _parts(match)
        if experiment == COHORT or workspace.pipeline.keys.refuse(experiment) is None:
            yield Located(artifact.name, experiment, variant, layout.data_root / name, has_record, has_file)


def _parts(match: re.Match[str]) -> tuple[str, str]:
    groups = match.groupdict()
    return groups.get("exp") or COHORT, groups.get("variant") or ""


def _without_suffix(name: str) -> str:
    return name.removesuffix(RECORD_SUFFIX).removesuffix(FAILURE_SUFFIX)


def _pattern(template: str) -> re.Pattern[str]:
    """Turn a template into a pattern; a name that stands in it twice must be the same both times."""
    text, seen = "", set()
    for part in re.split(r"(\{exp\}|\{variant\})", template):
        name = part.strip("{}")
        if part in ("{exp}", "{variant}"):
            text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            text += re.escape(part)
    return re.compile(text)
