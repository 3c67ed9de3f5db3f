"""`morphseq recipe show EXP [STEP]`: the resolved parameters of an experiment and where each comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphseq_dagster.cli.messages import print_json, printable
from morphseq_dagster.cli.options import Call, Form, Format, add_verb, check_choice, refusing_call, verb
from morphseq_dagster.engine.contract.recipe import DEFAULT
from morphseq_dagster.identifiers import check_experiment

if TYPE_CHECKING:
    from morphseq_dagster.engine.contract.recipe import Recipe
    from morphseq_dagster.engine.pipeline import Pipeline

_EXAMPLE = "morphseq recipe show 20250529_ctrl snips"
recipe = typer.Typer(
    no_args_is_help=True,
    help="Parameters of the science.",
    epilog=f"Example: {_EXAMPLE}",
    rich_markup_mode=None,
    add_completion=False,
)


@recipe.callback()
def _recipe() -> None:
    """Parameters of the science."""


@verb(example=_EXAMPLE)
def show(
    call: Call,
    experiment: Annotated[str, typer.Argument(help="Experiment, or `default` for the lab's recipe.")],
    step: Annotated[str | None, typer.Argument(help="Step; all when left out.")] = None,
    *,
    form: Form = Format.table,
) -> None:
    """Print the resolved parameters, each with the file that sets it, or `default`."""
    with refusing_call():
        if experiment != DEFAULT:
            check_experiment(experiment)
        resolved = call.workspace.recipe(experiment)
        steps = _choose(call.workspace.pipeline, step=step)
    rows = [(name, value, origin) for s in steps for name, value, origin in list_parameters(resolved, step=s)]
    if form is Format.json:
        values = [{"parameter": name, "value": value, "from": origin} for name, value, origin in rows]
        print_json({"schema": "morphseq.recipe", "version": 1, "parameters": values})
        return
    texts = [(name, _write(value), origin) for name, value, origin in rows]
    width, wide = (max((len(row[i]) for row in texts), default=0) for i in (0, 1))
    for name, text, origin in texts:
        print(printable(f"{name:<{width}}  {text:<{wide}}  {origin}"))
    if not rows:
        print("no parameters")
    for (section, name, path), backends in _find_unused(resolved, steps=steps).items():
        print(printable(f"{section}.{name} of {path} is not used: it belongs to {' and '.join(backends)}"))


add_verb(recipe, "show", show)


def list_parameters(recipe: Recipe, *, step: str) -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and source of every parameter of a step; sections are looked into."""
    for name, value in _flatten(recipe.slice(step), prefix=step):
        yield name, value, _find_origin(recipe.origins, name)


def _flatten(values: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, prefix=f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _find_unused(recipe: Recipe, *, steps: Sequence[str]) -> dict[tuple[str, str, str], list[str]]:
    """Step, parameter and file of what is set for backends that are not chosen, with their names."""
    used = {(s, name.split(".", 2)[-1], origin) for s in steps for name, _, origin in list_parameters(recipe, step=s)}
    found: dict[tuple[str, str, str], list[str]] = {}
    for full, path in recipe.origins.items():
        section, _, rest = full.partition(".")
        backend, _, name = rest.partition(".")
        if section in steps and name and backend not in recipe.slice(section) and (section, name, path) not in used:
            found.setdefault((section, name, path), []).append(backend)
    return found


def _find_origin(origins: Mapping[str, str], name: str) -> str:
    """Source of a parameter: its own entry, or that of a table around it that was set as a whole."""
    while name:
        if name in origins:
            return origins[name]
        name = name.rpartition(".")[0]
    return DEFAULT


def _choose(pipeline: Pipeline, *, step: str | None) -> list[str]:
    if step is None:
        return list(pipeline.step_names)
    check_choice(step, known=pipeline.step_names, where="morphseq recipe show")
    return [step]


def _write(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return "(unset)" if value is None else json.dumps(value)
