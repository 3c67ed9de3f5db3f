"""Recipes resolved: defaults, then the lab's `recipes/default.toml`, then `recipes/{exp}.toml`.

Holds merging, checking with the nearest right name, and where each value comes from. Files are only read here.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters

DEFAULT = "default"


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
    told: set[str] = set()
    for path in files:
        for section, value in _read(path).items():
            if section not in sections:
                problems.append(f"{path}: unknown section [{section}]{_nearest(section, sections)}")
                continue
            if not isinstance(value, dict):
                problems.append(f"{path}: {section} must be a section with parameters")
                continue
            unknown = _unknown(value, model=sections[section], prefix=section, path=path)
            told |= unknown.keys()
            problems += unknown.values()
            _merge(merged.setdefault(section, {}), value, prefix=section, origins=origins, origin=str(path))
    slices: dict[str, Parameters] = {}
    for section, model in sections.items():
        try:
            slices[section] = model.model_validate(merged.get(section, {}))
        except ValidationError as error:
            for problem in error.errors():
                name = ".".join([section, *map(str, problem["loc"])])
                if name in told:
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


def _unknown(value: dict[str, Any], *, model: type[BaseModel], prefix: str, path: Path) -> dict[str, str]:
    """Unknown names of a section and of the plain tables in it, each with what to tell of it."""
    problems: dict[str, str] = {}
    for name, inner in value.items():
        known = model.model_fields.get(name)
        if known is None:
            problems[f"{prefix}.{name}"] = f"{path}: unknown {prefix}.{name}{_nearest(name, model.model_fields)}"
        elif isinstance(inner, dict) and isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            problems |= _unknown(inner, model=known.annotation, prefix=f"{prefix}.{name}", path=path)
    return problems


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"


def _merge(
    target: dict[str, Any], source: dict[str, Any], *, prefix: str, origins: dict[str, str], origin: str
) -> None:
    for name, value in source.items():
        if isinstance(value, dict) and isinstance(target.get(name, {}), dict):
            _merge(target.setdefault(name, {}), value, prefix=f"{prefix}.{name}", origins=origins, origin=origin)
        else:
            target[name] = value
            origins[f"{prefix}.{name}"] = origin
