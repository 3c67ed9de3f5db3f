"""Recipes resolved: defaults, then the lab's `recipes/default.toml`, then `recipes/{exp}.toml`.

Unknown names are refused with the nearest right one, and the source of each value is kept. Files are read here and
written in `storage/recipe_files.py`; the parameters of a step are a class of its workflow.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from morphseq_dagster.backends import BackendSlice
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters

DEFAULT = "default"
_LISTED = 12


@dataclass(frozen=True)
class Recipe:
    """Resolved parameters of all steps for one experiment.

    Parameters
    ----------
    slices
        Checked slice per step.
    origins
        Source of every value that is not a default: `step.parameter` to the file's name.
    """

    slices: Mapping[str, Parameters]
    origins: Mapping[str, str] = field(default_factory=dict)

    def slice(self, step: str) -> dict[str, Any]:
        """JSON form of a step's slice, as it enters the request's key."""
        return self.slices[step].model_dump(mode="json")


def load_recipe(files: tuple[Path, ...], *, sections: Mapping[str, type[Parameters]]) -> Recipe:
    """Resolve a recipe from files in rising precedence; absent files are fine.

    Raises
    ------
    PermanentError
        Naming every unknown name (with the nearest right one) and every wrong value of all files.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    named: set[str] = set()
    for path in files:
        for section, value in _read(path).items():
            if section not in sections:
                problems.append(f"{path}: unknown section [{section}]{_nearest(section, sections)}")
                continue
            if not isinstance(value, dict):
                problems.append(f"{path}: {section} must be a section with parameters")
                continue
            model = sections[section]
            unknown = _unknown(value, known=_list_names(model), prefix=section, path=path)
            named |= unknown.keys()
            problems += unknown.values()
            for part in _sort_by_backend(value, model=model):
                _merge(merged.setdefault(section, {}), part, prefix=section, origins=origins, origin=str(path))
    slices: dict[str, Parameters] = {}
    for section, model in sections.items():
        try:
            slices[section] = model.model_validate(merged.get(section, {}))
        except ValidationError as error:
            for problem in error.errors():
                name = ".".join([section, *map(str, problem["loc"])])
                if name in named:
                    continue  # with the nearest right name
                problems.append(f"{origins.get(name, 'recipe')}: {name}: {problem['msg']}")
    if problems:
        raise PermanentError(
            expected="recipes whose names and values are known",
            found="; ".join(problems),
            where=", ".join(str(path) for path in files if path.exists()),
            remedy="correct the named entries",
        )
    return Recipe(slices, origins)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PermanentError(
            expected="a TOML file", found=str(error), where=str(path), remedy="correct the file's syntax"
        ) from error


def _list_names(model: type[BaseModel]) -> dict[str, Any]:
    """Names that a section may hold, each with what it holds; tables of all backends and what is in them included."""
    known = {name: field.annotation for name, field in model.model_fields.items()}
    if issubclass(model, BackendSlice):
        known |= {entry.name: entry.parameters for entry in model.backends}
        for entry in model.backends:
            known = known | {n: held for n, held in _list_names(entry.parameters).items() if n not in known}
    return known


def _sort_by_backend(value: dict[str, Any], *, model: type[Parameters]) -> Iterator[dict[str, Any]]:
    """Yield what a section says; parameters of backends that stand straight in it come first, as tables of theirs."""
    if not issubclass(model, BackendSlice):
        yield value
        return
    own = {*model.model_fields, *model.backends.entries}
    sorted_names: set[str] = set()
    for entry in model.backends:
        loose = {name for name in value if name in entry.parameters.model_fields and name not in own}
        sorted_names |= loose
        if loose:
            yield {entry.name: {name: value[name] for name in value if name in loose}}
    yield {name: inner for name, inner in value.items() if name not in sorted_names}


def _unknown(value: dict[str, Any], *, known: Mapping[str, Any], prefix: str, path: Path) -> dict[str, str]:
    """Unknown names of a section and of the plain tables in it, each with its message."""
    problems: dict[str, str] = {}
    for name, inner in value.items():
        if name not in known:
            problems[f"{prefix}.{name}"] = f"{path}: unknown {prefix}.{name}{_nearest(name, known)}"
        elif isinstance(inner, dict) and isinstance(known[name], type) and issubclass(known[name], BaseModel):
            problems |= _unknown(inner, known=_list_names(known[name]), prefix=f"{prefix}.{name}", path=path)
    return problems


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    more = f" and {len(known) - _LISTED} more, see `morphseq recipe show`" if len(known) > _LISTED else ""
    return f" (known: {', '.join(list(known)[:_LISTED])}{more})"


def _merge(
    target: dict[str, Any], source: dict[str, Any], *, prefix: str, origins: dict[str, str], origin: str
) -> None:
    for name, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(name, {}), dict):
            _merge(target.setdefault(name, {}), value, prefix=f"{prefix}.{name}", origins=origins, origin=origin)
        else:
            target[name] = value
            origins[f"{prefix}.{name}"] = origin
