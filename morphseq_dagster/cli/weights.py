"""Check of `morphseq doctor`: are the weights there that the recipes ask for, and which experiments ask for them.

It only looks, and reads weights whole where no run has read them yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from morphseq_dagster.cli.checks import CheckResult, Level, ok
from morphseq_dagster.engine.planner.snapshot import find_recorded
from morphseq_dagster.engine.storage.weights import hash_weights, recall_hash
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, name_some

_NAMED = 3
_HASH = 12


def check_weights(workspace: Workspace) -> Iterator[CheckResult]:
    """Look at every weights file that a recipe wants, and at those that are named in vain."""
    wishes = find_wishes(workspace)
    names = sorted({*wishes, *workspace.weights})
    for name in names:
        yield _judge(workspace, name=name, experiments=wishes.get(name, []))
    if not names:
        yield ok("no recipe asks for weights")


def find_wishes(workspace: Workspace) -> dict[str, list[str]]:
    """Experiments that want weights, by the name of the weights; those whose recipe cannot be read are left out."""
    layout = workspace.layout
    own = {path.stem for path in layout.recipes("default")[0].parent.glob("*.toml")}
    shared: set[str] | None = None
    wishes: dict[str, list[str]] = {}
    found_sources = [source.name for source in workspace.pipeline.find_sources(layout) if not source.reason]
    for experiment in sorted({*found_sources, *find_recorded(workspace)}):
        if experiment in own:
            found = _wanted(workspace, experiment)
        else:
            # Without a recipe of its own the lab's holds: resolved once for all of them.
            found = shared = _wanted(workspace, experiment) if shared is None else shared
        for name in sorted(found):
            wishes.setdefault(name, []).append(experiment)
    return wishes


def _wanted(workspace: Workspace, experiment: str) -> set[str]:
    try:
        recipe = workspace.recipe(experiment)
    except (MorphseqError, OSError):
        return set()  # the check of the recipes names it
    specs = workspace.pipeline.steps
    return {e.weights for spec in specs for e in spec.wanted_externals(recipe.slice(spec.name)) if e.weights}


def _judge(workspace: Workspace, *, name: str, experiments: list[str]) -> CheckResult:
    path = workspace.weights.get(name)
    wanted = f"wanted by {name_some(experiments, most=_NAMED)}" if experiments else "wanted by no recipe"
    level: Level = "problem" if experiments else "note"
    if path is None:
        advice = f'add `{name} = "/path/of/the/file"` to the section [weights] of morphseq.toml'
        return CheckResult(level, f"weights {name} are not named on this machine, {wanted}", advice)
    if not path.exists():
        advice = f"put the file there, or correct `{name}` in the section [weights] of morphseq.toml"
        return CheckResult(level, f"weights {name}: {path} is not there, {wanted}", advice)
    try:
        _refuse_unreadable(path)
        digest = recall_hash(workspace.layout, path) or hash_weights(path)
    except OSError as error:
        return CheckResult(
            level, f"weights {name}: {path} cannot be read ({error.strerror}), {wanted}", f"chmod -R u+r {path}"
        )
    return CheckResult("ok" if experiments else "note", f"weights {name}: {path}, SHA-256 {digest[:_HASH]}, {wanted}")


def _refuse_unreadable(path: Path) -> None:
    """Ask for the permission even where the cache knows the hash."""
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise PermissionError(13, "Permission denied")
