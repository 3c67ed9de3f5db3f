"""Bulk runs of the command line: many experiments as one run of the job `bulk`, with a line for each event.

`runs.py` imports this module when a run goes this way; what the run does is `cluster/bulk_run.py`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from morphseq_dagster.cli.display import Display, RunOutcome, StepEvent
from morphseq_dagster.cli.launch import Launcher
from morphseq_dagster.cli.options import Call
from morphseq_dagster.cluster.experiment_progress import Event, StepFailed, StepMade, StepUpToDate
from morphseq_dagster.partitions import BULK_JOB, bulk_config
from morphseq_dagster.runs.listeners import listening


def run_bulk(
    call: Call,
    launcher: Launcher,
    display: Display,
    *,
    chains: Mapping[str, Sequence[str]],
    steps: Collection[str],
    force: bool = False,
    automatic: bool = False,
) -> int:
    """Run many experiments as one run, with the options of `run_chains`; return how many failed."""
    ordered = [name for name in call.workspace.pipeline.step_names if name in steps]
    events: dict[str, list[tuple[Event, float]]] = {experiment: [] for experiment in chains}
    started = time.monotonic()
    display.say(f"one run over {len(chains)} experiments")

    def show(event: object) -> None:
        if not isinstance(event, StepMade | StepUpToDate | StepFailed):
            return
        events[event.experiment].append((event, time.monotonic() - started))
        display.begin(event.experiment)
        kind = "failed" if isinstance(event, StepFailed) else "made" if isinstance(event, StepMade) else "standing"
        display.note(StepEvent(event.step, kind, str(event.error) if isinstance(event, StepFailed) else ""))

    launcher.register(chains)
    with listening(show):
        config = bulk_config(tuple(chains), steps=ordered, force=force, automatic=automatic)
        result = launcher.execute(BULK_JOB, config=config)
    failed = any(isinstance(event, StepFailed) for found in events.values() for event, _ in found)
    outcomes = [
        _summarise(experiment, events=events[experiment], steps=pending, lost=not result.success and not failed)
        for experiment, pending in chains.items()
    ]
    for outcome in outcomes:
        display.finish(outcome)
        if outcome.failed and outcome.failed[0][0] == "":
            display.say(f"{outcome.experiment}: {outcome.failed[0][1]}")
    return sum(bool(outcome.failed) for outcome in outcomes)


def _summarise(
    experiment: str, *, events: Sequence[tuple[Event, float]], steps: Sequence[str], lost: bool
) -> RunOutcome:
    """Sum up one experiment; `lost` when the run failed without naming an experiment."""
    tried = {event.step for event, _ in events}
    failed = tuple((event.step, str(event.error)) for event, _ in events if isinstance(event, StepFailed))
    untried = tuple(step for step in steps if step not in tried)
    if untried and not failed and lost:
        failed = (("", "the run failed; the log of Dagster has the reason (--verbose)"),)
    made = tuple(event.step for event, _ in events if isinstance(event, StepMade))
    standing = tuple(step for step in steps if step in tried and step not in (*made, *(step for step, _ in failed)))
    return RunOutcome(experiment, made, standing, failed, untried, max((s for _, s in events), default=0.0))
