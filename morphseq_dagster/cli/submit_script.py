"""`morphseq submit-script`: an array script for Slurm or Sun Grid Engine, one experiment per task."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import Call, refusing_call, verb
from morphseq_dagster.cli.pipeline import E2E, steps_of
from morphseq_dagster.cluster.array_script import ArrayScheduler, ArrayScript, parse_list, write_array_script
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.errors import PermanentError, name_some
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings


@verb(example="morphseq submit-script experiments.txt --scheduler slurm")
def submit_script(
    call: Call,
    names: Annotated[
        Path, typer.Argument(metavar="LIST", help="File with one experiment per line; # begins a comment.")
    ],
    *,
    scheduler: Annotated[ArrayScheduler, typer.Option(help="Scheduler that the array is for.")],
    action: Annotated[str, typer.Option(help="What every task runs, as in `morphseq pipeline`.")] = E2E,
    output: Annotated[Path | None, typer.Option(help="File for the script [default: standard output].")] = None,
    cpus: Annotated[int | None, typer.Option(help="Processors of a task.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a task, such as 16G.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit: minutes, HH:MM:SS or D-HH:MM:SS.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of a task, such as 1 or a100:1.")] = None,
    at_once: Annotated[int | None, typer.Option("--at-once", help="Tasks that run at the same time at most.")] = None,
    queue: Annotated[str | None, typer.Option(help="Sun Grid Engine: queue.")] = None,
    slots: Annotated[str, typer.Option(help="Sun Grid Engine: parallel environment for several processors.")] = "smp",
    gpu_request: Annotated[
        str | None,
        typer.Option("--gpu-request", help="Sun Grid Engine: how your site asks for a GPU, gpgpu=TRUE,cuda=1."),
    ] = None,
) -> None:
    """Write an array script for Slurm or Sun Grid Engine.

    What you do not give comes from the section places.slurm. Nothing is submitted. Exit code: 0 written, 2 the command
    is wrong.
    """
    asked = {"cpus": cpus, "memory": memory, "time": time, "gpus": gpus}
    slurm = call.settings.places.slurm or SlurmSettings()
    there = Layout(Path(slurm.data_root or call.settings.data_root))
    with refusing_call():
        experiments = _read(names)
        if experiments:
            _refuse_unready(call, experiments)
        steps_of(action, pipeline=call.workspace.pipeline)
        text = write_array_script(
            ArrayScript(
                experiments=experiments,
                action=action,
                python=slurm.python,
                data_root=str(there.data_root),
                logs=str(there.array_logs),
                resources=replace(
                    slurm.resources.over(Resources()),
                    **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
                ),
                environment=slurm.surroundings(),
                weights={name: str(path) for name, path in call.settings.weights.named().items()},
                pipeline="" if call.pipeline == PIPELINE else call.pipeline,
                at_once=at_once,
                queue=queue,
                slots=slots,
                gpu_request=gpu_request,
            ),
            scheduler=scheduler,
        )
    # A scheduler does not make the folder of its logs.
    call.workspace.layout.array_logs.mkdir(parents=True, exist_ok=True)
    if output is None:
        print(text, end="")
        return
    output.write_text(text)
    output.chmod(0o777 & ~_umask())
    command = "sbatch" if scheduler is ArrayScheduler.slurm else "qsub"
    print(f"{len(experiments)} tasks; submit with: {command} {printable(str(output))}", file=sys.stderr)
    print("afterwards: morphseq status, and morphseq reconcile --report-to-dagster for the web page", file=sys.stderr)


def _read(path: Path) -> tuple[str, ...]:
    try:
        return parse_list(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            expected="a text file with one experiment per line",
            found=str(error),
            where=str(path),
            remedy="write the names of experiments into it; `morphseq experiments` lists them",
        ) from error


def _refuse_unready(call: Call, experiments: tuple[str, ...]) -> None:
    """Refuse names that no task could run."""
    from morphseq_dagster.cli.choice import choose_experiments

    refused = choose_experiments(call.workspace, names=experiments).refused
    if refused:
        raise PermanentError(
            expected="experiments that can run",
            found=name_some([f"{name}: {reason}" for name, reason in refused], separator="; "),
            where="list of experiments",
            remedy="mend them, or take them out of the list",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
