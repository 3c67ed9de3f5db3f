"""Options that several verbs share, and what they open: the settings and workspace of one call.

Holds no verb.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from morphseq_dagster.cli.messages import print_error
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.settings.machine import MachineSettings, load_settings

DEFAULT_PIPELINE = PIPELINE

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of all experiments [default: MORPHSEQ_DATA_ROOT, .env].")
]
PipelineName = Annotated[str, typer.Option("--pipeline", envvar="MORPHSEQ_PIPELINE", hidden=True)]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say more; show tracebacks.")]
Experiments = Annotated[str | None, typer.Option("--experiments", help="Names, separated by commas.")]


@dataclass(frozen=True)
class Call:
    """What a verb works with."""

    settings: MachineSettings
    workspace: Workspace
    pipeline: str


def open_call(data_root: Path | None, *, pipeline: str) -> Call:
    """Open the settings and the workspace of this call."""
    settings = load_settings(data_root=data_root)
    return Call(settings, Workspace(settings.data_root, load_pipeline(pipeline), settings.weights.named()), pipeline)


def split_names(text: str) -> tuple[str, ...]:
    """Split a list of names at commas; doubles are left out.

    Raises
    ------
    PermanentError
        When there is no name in it.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise PermanentError(
            expected="names of experiments, separated by commas",
            found=repr(text),
            where="the command line",
            remedy="name at least one; `morphseq experiments` lists them",
        )
    return names


def refuse_call(error: PermanentError) -> NoReturn:
    """End a call that was wrongly asked, before anything starts."""
    print_error(error)
    raise typer.Exit(2)


@contextmanager
def refusing_call() -> Iterator[None]:
    """End the call as wrongly asked when what it asks for is refused in here."""
    try:
        yield
    except PermanentError as error:
        refuse_call(error)
