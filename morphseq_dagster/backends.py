"""Backends: implementations that a recipe chooses by name - detectors, segmenters, embedders, one entry each.

Each room of the science lists its own (`detection/backends.py`, `segmentation/backends.py`, `latents/backends.py`).
Recipes, the weights among a step's inputs and `docs/recipes.md` are derived from these lists.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, create_model, model_validator

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters

_Model = TypeVar("_Model")


class BackendIdentity(BaseModel):
    """The implementation that computed: name, version and SHA-256 of its weights (None: it has none)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Backend:
    """One implementation of a room.

    Parameters
    ----------
    name
        What a recipe calls it.
    text
        One sentence for people.
    parameters
        Class of its parameters. In a recipe they stand in a table of the backend's name.
    loader
        `module:name` of what makes the model, imported when it is wanted. It is called with the parameters, and with
        the path of the weights where the backend reads some. Empty when this version cannot load the backend.
    weights
        Name of its weights in the machine's section `weights`; empty when it reads none.
    needs
        What must be there before it can be loaded, for the error of one that cannot.
    """

    name: str
    text: str
    parameters: type[Parameters] = Parameters
    loader: str = ""
    weights: str = ""
    needs: str = ""


class Backends(Generic[_Model]):
    """The backends of a room, by name; the first is the default.

    Parameters
    ----------
    parameter
        Parameter of the recipe that chooses, for messages.
    entries
        The backends.
    other_weights
        Weights that a name without an entry stands for, where a recipe may use such names (models of a lab).
    """

    def __init__(self, parameter: str, *entries: Backend, other_weights: str = "") -> None:
        self.parameter = parameter
        self.entries = {entry.name: entry for entry in entries}
        self.default = entries[0].name
        self._other_weights = other_weights

    def __iter__(self) -> Iterator[Backend]:
        """Yield the entries in order."""
        return iter(self.entries.values())

    def weights_of(self, name: str) -> str:
        """Name of the weights that a backend reads; empty when it reads none."""
        return self.entries[name].weights if name in self.entries else self._other_weights

    def weights(self) -> tuple[str, ...]:
        """Names of all weights that some backend reads."""
        names = (*(entry.weights for entry in self), self._other_weights)
        return tuple(dict.fromkeys(name for name in names if name))

    def find(self, name: str) -> Backend:
        """Entry of a backend that this version can load.

        Raises
        ------
        PermanentError
            When the name is unknown or its backend cannot be loaded. There is no fallback: the backend is part of the
            result's meaning.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise self._refuse(expected=f"one of {', '.join(self.entries)}", found=repr(name))
        if not entry.loader:
            raise self._refuse(
                expected=f"{entry.needs}, and a version of this package with model support",
                found=f"this version, which cannot load {name!r}",
            )
        return entry

    def load(
        self,
        name: str,
        parameters: Parameters | None = None,
        *,
        weights: Callable[[str], Path | None] = lambda _: None,
    ) -> _Model:
        """Load the model of a name.

        Parameters
        ----------
        weights
            Finds the file or folder of its weights by the name of the step's input.

        Raises
        ------
        PermanentError
            As `find`, and when the machine names no weights for it.
        """
        entry = self.find(name)
        arguments: list[Any] = [entry.parameters() if parameters is None else parameters]
        if entry.weights:
            path = weights(weights_input(entry.weights))
            if path is None:
                raise self._refuse(
                    expected=entry.needs or f"weights `{entry.weights}` for the backend {name!r}",
                    found=f"no `{entry.weights}` in the section [weights] of this machine's settings",
                )
            arguments.append(path)
        model: _Model = import_named(entry.loader)(*arguments)
        return model

    def _refuse(self, *, expected: str, found: str) -> PermanentError:
        return PermanentError(
            expected=expected,
            found=found,
            where=f"recipe, {self.parameter}",
            remedy=f'set {self.parameter} = "{self.default}", or adopt results that were computed elsewhere',
        )


def weights_input(name: str) -> str:
    """Name of the step's input that weights are."""
    return f"{name}_weights"


def import_named(name: str) -> Any:  # noqa: ANN401 - whatever stands under the name
    """Import what `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class BackendSlice(Parameters):
    """Slice of a step whose work is done by a backend that the recipe chooses.

    Each backend has a form of the slice of its own; `backend` tells them apart. Only the chosen one's parameters are in
    it, in a table of its name. The tables of others, which a lab that switches back and forth keeps in its file, are
    checked and left out.
    """

    backends: ClassVar[Backends[Any]]
    backend: str

    @property
    def parameters(self) -> Parameters:
        """Parameters of the chosen backend."""
        found: Parameters = getattr(self, self.backend, Parameters())
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _choose_form(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 - any input
        if not isinstance(values, Mapping) or cls.model_fields["backend"].annotation is not str:
            return handler(values)
        entries = cls.backends.entries
        name = str(values.get("backend", cls.backends.default))
        others = [other for other in values if other in entries and other != name]
        for other in others:
            _make_form(cls, entries[other]).model_validate({other: values[other]})
        kept = {n: value for n, value in values.items() if n not in others}
        return cast("Self", _make_form(cls, entries.get(name)).model_validate(kept))


@cache
def _make_form(model: type[BackendSlice], entry: Backend | None) -> type[BackendSlice]:
    """Slice with the parameters of one backend; without one, a slice that refuses every name but the known ones."""
    names = (entry.name,) if entry is not None else tuple(model.backends.entries)
    fields: dict[str, Any] = {"backend": (Literal[names], names[0])}
    if entry is not None and entry.parameters.model_fields:
        fields[entry.name] = (entry.parameters, entry.parameters())
    return create_model(f"{model.__name__}[{names[0]}]", __base__=model, __doc__=model.__doc__, **fields)
