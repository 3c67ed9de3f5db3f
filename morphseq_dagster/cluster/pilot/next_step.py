"""Job chaining: which step a job goes on with by itself, once the one before it is published.

Holds the choice, made on the node from the files below the data root alone. Where anything is in doubt there is no
follower, and whoever waits decides: he holds the claims, knows the settings of the machine and is told of failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from morphseq_dagster.cluster.open_jobs import find_open_jobs
from morphseq_dagster.cluster.pilot.chaining import Begin, Follower
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.locked_step import find_answer
from morphseq_dagster.engine.storage.commit import is_interrupted
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.engine.storage.step_locks import read_lock
from morphseq_dagster.engine.storage.untracked_files import find_untracked
from morphseq_dagster.engine.workspace import Workspace


def can_follow(workspace: Workspace, *, step: str, experiment: str) -> bool:
    """Whether a node can make a step's request: it does not know where weights lie on the machine that asks.

    Raises
    ------
    PermanentError
        When the experiment's recipe cannot be read.
    """
    spec = workspace.pipeline.spec(step)
    wanted = spec.wanted_externals(workspace.recipe(experiment).slice(step))
    return not any(external.weights for external in wanted)


def begin_next(workspace: Workspace, *, request: StepRequest, then: Sequence[str], begin: Begin) -> None:
    """Begin the first of some steps that has to be done, the request before them being published.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    request
        What was done.
    then
        Steps that the caller means to run after it, in order.
    begin
        Makes the follower's folder, unless it turns out that somebody is at that step.

    Raises
    ------
    MorphseqError
        When a request cannot be made.
    """
    experiment = request.experiment
    for position, step in enumerate(then):
        if not _is_free(workspace, step=step, request=request):
            return
        asked = workspace.request(workspace.pipeline.spec(step), experiment=experiment, run_id=request.run_id)
        record = find_answer(workspace.layout, spec=workspace.pipeline.spec(step), request=asked)
        if record is None:
            primary = workspace.layout.absolute(asked.output)
            if not any(find_untracked(workspace.layout, step=step, experiment=experiment, primary=primary)):
                rest = tuple(then[position + 1 :])
                follower = Follower(group=(step, experiment), key=asked.key, request=encode(asked), then=rest)
                begin(follower, is_free=partial(_is_unclaimed, workspace, step=step, request=request))
            return
        if record.condition != "published":
            return  # whether its bytes are needed is not for the node to judge


def _is_free(workspace: Workspace, *, step: str, request: StepRequest) -> bool:
    """Whether nobody is at a step, or was and did not come to an end."""
    layout, experiment = workspace.layout, request.experiment
    return (
        _is_unclaimed(workspace, step=step, request=request)
        and not is_interrupted(layout, step=step, experiment=experiment)
        and not find_open_jobs(layout, step=step, experiment=experiment)
    )


def _is_unclaimed(workspace: Workspace, *, step: str, request: StepRequest) -> bool:
    """Whether nobody but the run that this is done for holds a step's lock.

    Looked at once more when the follower's folder is there: who takes a claim looks for folders afterwards, so of two
    that come together one sees the other.
    """
    claim = read_lock(workspace.layout.lock(step, experiment=request.experiment))
    return claim is None or claim.run_id == request.run_id
