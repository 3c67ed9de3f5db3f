"""Runner of cluster jobs: the engine's (`engine/executors/runner.py`), and what a pilot job needs beside it.

The agent of a pilot job (`pilot/agent.py`) calls `prepare` once, `main` in a process for each request, and `follow`
after each one that is done.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from morphseq_dagster.engine.executors.execution import read_request
from morphseq_dagster.engine.executors.runner import main, meet_environment, parse
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError

if TYPE_CHECKING:
    from morphseq_dagster.cluster.pilot.chaining import Begin

__all__ = ["follow", "main", "prepare"]

_NEXT_STEP: Final = "morphseq_dagster.cluster.pilot.chaining"


def prepare(arguments: list[str]) -> None:
    """Load what requests with these arguments share, once for all processes that are forked afterwards."""
    options = parse(arguments)
    pipeline = load_pipeline(options.pipeline)
    pipeline.spec(read_request(options.request).step).load()
    with contextlib.suppress(PermanentError):  # each request fails with it itself
        meet_environment(options)
    importlib.import_module(_NEXT_STEP)


def follow(arguments: list[str], then: tuple[str, ...], *, run_id: str, begin: Begin) -> None:
    """Begin the next of the named steps that is not up to date, now that the request of these arguments is done."""
    from morphseq_dagster.cluster.pilot.chaining import begin_next  # most jobs have no use for it

    options = parse(arguments)
    # Another run than the one that asked may have taken the job over meanwhile.
    request = read_request(options.request).model_copy(update={"run_id": run_id})
    workspace = Workspace(Path(request.data_root), load_pipeline(options.pipeline))
    begin_next(workspace, request=request, then=then, begin=begin)


if __name__ == "__main__":
    sys.exit(main())
