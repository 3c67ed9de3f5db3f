"""Recipe files written: one parameter set, everything else of the file - order, comments - as its author left it.

They are read and checked in `contract/recipe.py`.
"""

from __future__ import annotations

from pathlib import Path

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters


def check_parameter(model: type[Parameters], *, name: str, value: str) -> None:
    """Refuse a value that the recipe does not allow.

    Raises
    ------
    PermanentError
        With the message of the recipe's model.
    """
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        raise PermanentError(
            expected=f"a value of {name} that the recipe allows",
            found=f"{value!r}: {error.errors()[0]['msg']}",
            where="recipe",
            remedy="correct the value",
        ) from error


def set_parameter(path: Path, *, section: str, name: str, value: str) -> bool:
    """Set `section.name` in a recipe file and keep the rest; return whether the file had to be written.

    Raises
    ------
    PermanentError
        When the file is no TOML, or the section no table.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    try:
        document = tomlkit.parse(data.decode())
        table = document.setdefault(section, tomlkit.table())
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise _refuse(path, found=str(error)) from error
    if not isinstance(table, Table):
        raise _refuse(path, found=f"{section} is not a section")
    if table.get(name) == value:
        return False
    table[name] = value
    write_durably(path, tomlkit.dumps(document).encode())
    return True


def _refuse(path: Path, *, found: str) -> PermanentError:
    return PermanentError(expected="a recipe in TOML", found=found, where=str(path), remedy="correct the file")
