"""The typer application: which verbs there are.

Each verb is a module of its own, which is imported when you call it, ask for its help or misspell it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from morphseq_dagster import __version__
from morphseq_dagster.cli.options import add_verb

VERBS: Final = (
    "demo",
    "experiments",
    "status",
    "explain",
    "stale",
    "pipeline",
    "materialize",
    "cohort",
    "reconcile",
    "adopt",
    "retire",
    "jobs",
    "environment",
    "submit-script",
    "doctor",
    "recipe",
)
"""Modules of `morphseq_dagster.cli`, each with its verb, or group of verbs, under the module's own name (- for _)."""
_SHARED: Final[dict[str, Any]] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}


class _Verbs(TyperGroup):
    """Group that imports a verb when it is called, described or misspelt."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer keeps its context class to itself
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - as above
        del ctx
        if cmd_name in VERBS and cmd_name not in self.commands:
            self.add_command(_load(cmd_name), cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as above
        if args[0] not in VERBS:
            # The nearest names are looked for among the verbs that are there.
            for name in VERBS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:  # noqa: ANN401 - as above
    module = name.replace("-", "_")
    verb = getattr(import_module(f"{__package__}.{module}"), module)
    if isinstance(verb, typer.Typer):
        return get_group(verb)
    alone = typer.Typer(add_completion=False, **_SHARED)
    add_verb(alone, name, verb)
    return get_command(alone)


app = typer.Typer(
    name="morphseq",
    help="From raw microscope files of zebrafish embryos to one table of morphology latents per experiment.",
    no_args_is_help=True,
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_SHARED,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"morphseq {__version__}")
        raise typer.Exit


@app.callback()
def _morphseq(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the whole line as a group of verbs, however many are loaded."""
