"""Names of backends in a recipe: what is said of one that cannot be loaded.

Holds the refusals. Which names there are stands in the room that loads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from morphseq_dagster.errors import PermanentError


def refuse_backend(name: str, *, room: str, known: Sequence[str], need_weights: Mapping[str, str]) -> PermanentError:
    """Make the error for a backend of a room (`detection`) that is unknown, or whose weights cannot be loaded here.

    `need_weights` tells by name the files that a backend reads. There is no fallback: the backend is part of the
    result's meaning.
    """
    where = f"recipe, {room} backend"
    if name in need_weights:
        return PermanentError(
            expected=f"{need_weights[name]}, and a version of this package with model support",
            found=f"this version, which cannot load the backend {name!r}",
            where=where,
            remedy=f'set the {room} backend to "classical"; model backends come with the extra `models`',
        )
    return PermanentError(
        expected=f"one of {', '.join(known)}",
        found=repr(name),
        where=where,
        remedy="correct the name of the backend in the recipe",
    )
