"""`morphseq explain EXP [STEP]`: why steps are stale - cause, old and new value, file, when, which run, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from morphseq_dagster.cli.messages import print_json, printable
from morphseq_dagster.cli.options import Call, Form, Format, check_choice, refusing_call, verb

if TYPE_CHECKING:
    from morphseq_dagster.engine.planner.explain import Explanation
    from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
    from morphseq_dagster.engine.workspace import Workspace

_WORDS = {
    "fresh": "fresh",
    "pruned": "fresh, its bytes are removed",
    "kept": "an edit by hand stands",
    "stale": "stale",
}


@verb(example="morphseq explain 20250529_ctrl snips")
def explain(
    call: Call,
    experiment: Annotated[str, typer.Argument(help="Experiment.")],
    step: Annotated[str | None, typer.Argument(help="Step; without it all steps that are not up to date.")] = None,
    *,
    form: Form = Format.table,
) -> None:
    """Show why the steps of an experiment are stale.

    Each cause comes with old and new value, file, time and run, and with what refreshing costs. Nothing is written.
    """
    from morphseq_dagster.engine.planner.explain import encode_explanation, explain_experiment

    with refusing_call():
        _check(call.workspace, experiment=experiment, step=step)
    plan, explanations = explain_experiment(call.workspace, experiment=experiment)
    chosen = [e for e in explanations if e.verdict.step == step] if step is not None else list(explanations)
    if form is Format.json:
        values = {
            "schema": "morphseq.explain",
            "version": 1,
            "experiment": experiment,
            "busy": plan.busy,
            "problem": plan.problem,
            "steps": [encode_explanation(e) for e in chosen],
        }
        print_json(values)
        return
    print(
        "\n".join(
            printable(line) for line in _draw(plan, explanations=chosen, everything=call.verbose or step is not None)
        )
    )


def _check(workspace: Workspace, *, experiment: str, step: str | None) -> None:
    from morphseq_dagster.engine.planner.snapshot import find_recorded
    from morphseq_dagster.engine.planner.status import refuse_unknown

    pipeline = workspace.pipeline
    known = {*(source.name for source in pipeline.find_sources(workspace.layout)), *find_recorded(workspace)}
    refuse_unknown([experiment], keys=pipeline.keys, known=sorted(known))
    if step is not None:
        check_choice(step, known=pipeline.step_names, where="morphseq explain")


def _draw(plan: ExperimentPlan, *, explanations: Sequence[Explanation], everything: bool) -> Iterable[str]:
    from morphseq_dagster.engine.planner.run_times import describe_cost, estimate_cost

    if plan.problem:
        yield f"{plan.experiment}: {plan.problem}"
    if plan.busy:
        yield f"{plan.experiment} is at work: {plan.busy}"
    if everything or any(e.verdict.causes for e in explanations):
        for explanation in explanations:
            if everything or explanation.verdict.causes:
                yield from _draw_step(explanation)
    if plan.pending:
        yield f"{plan.experiment}: {len(plan.pending)} steps to refresh, {describe_cost(estimate_cost(plan.pending))}"
    else:
        yield f"{plan.experiment}: nothing to do"


def _draw_step(explanation: Explanation) -> Iterable[str]:
    from morphseq_dagster.engine.planner.explain import tell_cause
    from morphseq_dagster.engine.planner.run_times import describe_cost

    verdict, made = explanation.verdict, explanation.made
    doubt = "" if verdict.certain or not verdict.runs else ", if what comes before gives other content"
    yield f"{verdict.step}: {_WORDS[verdict.freshness]}{doubt}"
    for cause in verdict.causes:
        yield from (f"  {line}" for line in tell_cause(cause, explanation=explanation))
    if verdict.held:
        yield f"  automation leaves it alone: {verdict.held}"
    if made.finished_at:
        took = f" in {made.seconds:.1f} s" if made.seconds is not None else ""
        yield f"  {made.origin} {made.finished_at}{took} by run {made.run_id} on {made.host} ({made.place})"
        yield f"  {explanation.output}, version {made.data_version[:12]}"
    if verdict.runs:
        yield f"  refreshing it and what follows: {describe_cost(explanation.cost)}"
