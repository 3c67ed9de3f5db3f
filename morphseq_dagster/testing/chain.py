"""Chain: run all steps of a pipeline in their order in this process, without Dagster, or as a command.

Crash tests and authors of workflows use it. It is no substitute for the pipeline: no selection, no plan, no retries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import report
from morphseq_dagster.testing.toy import TOY_PIPELINE, words_file

TOY = "morphseq_dagster.testing.toy:TOY_PIPELINE"
"""Name of the toy pipeline as runner and settings want it."""


def open_toy(data_root: Path) -> Workspace:
    """Open a data root of the toy pipeline."""
    return Workspace(data_root, TOY_PIPELINE)


def write_words(layout: Layout, experiment: str, *, words: Mapping[str, str]) -> Path:
    """Write the raw input of the toy pipeline: one word per well."""
    path = words_file(layout, experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{well} {word}\n" for well, word in words.items()))
    return path


def run_chain(
    workspace: Workspace,
    experiment: str,
    *,
    run_id: str = "chain",
    force: bool = False,
    steps: Collection[str] | None = None,
    replace_untracked: bool = False,
) -> dict[str, tuple[Record, bool]]:
    """Run every step in this process, or those named; tell each step's record and whether nothing had changed.

    Raises
    ------
    MorphseqError, OSError
        The first failure; later steps are not begun.
    """
    done = {}
    for spec in workspace.pipeline.steps:
        if steps is not None and spec.name not in steps:
            continue
        with lock_step(
            spec,
            workspace=workspace,
            experiment=experiment,
            run_id=run_id,
            force=force,
            replace_untracked=replace_untracked,
        ) as session:
            if session.cached is not None:
                done[spec.name] = (session.cached, True)
                continue
            outcome = session.run()
            done[spec.name] = (finish(workspace.layout, outcome=outcome), False)
    return done


def main(arguments: list[str] | None = None) -> int:
    """Run the chain of one experiment; return 0 when every step is published, else 1 and name the error."""
    parser = argparse.ArgumentParser(prog="morphseq_dagster.testing.chain", description=__doc__)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("experiment")
    parser.add_argument("--pipeline", default=TOY)
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    workspace = Workspace(options.data_root.absolute(), load_pipeline(options.pipeline))
    try:
        run_chain(workspace, options.experiment, force=options.force)
    except Exception as error:  # noqa: BLE001 - told, and the exit code says it
        sys.stderr.write(report(error).message + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
