"""Options that verbs share, and the call that they open: the settings, the workspace and the pipeline of one command.

A verb is a function of its call and its own options (`verb`); errors are printed in `messages.py`, names of experiments
chosen in `choice.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from morphseq_dagster.cli.messages import print_error
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.settings.machine import MachineSettings, load_settings


class Format(StrEnum):
    """Forms of the output."""

    table = "table"
    json = "json"


Experiments = Annotated[str | None, typer.Option("--experiments", help="Names, separated by commas.")]
Form = Annotated[Format, typer.Option("--format", help="Form of the output.")]
Apply = Annotated[
    bool, typer.Option("--apply", help="Do it; without this option the command only shows what it would do.")
]


@dataclass(frozen=True)
class Call:
    """What a verb works with: the machine's settings, the workspace, `module:attribute` of the pipeline."""

    settings: MachineSettings
    workspace: Workspace
    pipeline: str
    verbose: bool = False


def _shared(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of all experiments [default: MORPHSEQ_DATA_ROOT, .env].")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show more, and tracebacks.")] = False,
    pipeline: Annotated[str, typer.Option("--pipeline", envvar="MORPHSEQ_PIPELINE", hidden=True)] = PIPELINE,
) -> Call:
    """Open the settings and the workspace of this call."""
    settings = load_settings(data_root=data_root)
    workspace = Workspace(settings.data_root, load_pipeline(pipeline), settings.weights.named())
    return Call(settings, workspace, pipeline, verbose)


def verb(*, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a verb of a function of a call: it takes the options of `_shared` in place of its first parameter.

    Parameters
    ----------
    example
        A whole command, shown at the end of the verb's help.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        shared = inspect.signature(_shared, eval_str=True).parameters
        _, *own = inspect.signature(body, eval_str=True).parameters.values()
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared.values()]

        def run(*positional: Any, **options: Any) -> None:  # noqa: ANN401 - as typer gives them
            call = _shared(**{name: options.pop(name) for name in shared if name in options})
            body(call, *positional, **options)

        run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
        signature = inspect.Signature([*own, *keywords])
        vars(run).update(__signature__=signature, example=example)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        return run

    return decorate


def add_verb(group: typer.Typer, name: str, body: Callable[..., None]) -> None:
    """Give a verb to a group, with its example at the end of its help."""
    group.command(name, epilog=f"Example: {vars(body)['example']}")(body)


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


def check_choice(name: str, *, known: Sequence[str], where: str) -> None:
    """Refuse a name that is none of those known.

    Raises
    ------
    PermanentError
        Naming the known ones.
    """
    if name not in known:
        raise PermanentError(
            expected=f"one of {', '.join(known)}", found=repr(name), where=where, remedy="correct the name"
        )


def refuse_call(error: PermanentError) -> NoReturn:
    """Print what is wrong with the command itself, and end it before anything starts."""
    print_error(error)
    raise typer.Exit(2)


@contextmanager
def refusing_call() -> Iterator[None]:
    """End the command as one that is wrong itself, when what it asks for is refused in here."""
    try:
        yield
    except PermanentError as error:
        refuse_call(error)
