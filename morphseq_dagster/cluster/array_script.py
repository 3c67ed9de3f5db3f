"""Array scripts: one experiment per task of a Slurm or Sun Grid Engine array, for sites without a lasting connection.

A task runs the ordinary command line in its own process, with a Dagster history that ends with it, because many nodes
must not write one SQLite file over a network. Artifacts and records are the same as anywhere. `morphseq submit-script`
writes these; the scripts of single jobs are `script.py`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import Final

from morphseq_dagster.cluster.script import KEPT, THREADS, resource_options
from morphseq_dagster.engine.executors.allocation import CPUS_VARIABLE
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Environment, Resources, check_path, is_plain_name, refuse

_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REQUEST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=*-]*")
_PIPELINE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")
_KEPT: Final = f"{KEPT} SLURM_CPUS_PER_TASK SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU"
_THREADS: Final = f"{THREADS} {CPUS_VARIABLE}"

_BODY = r"""
case "$task" in
'' | 0* | *[!0-9]* | ????????*)
    echo "this script is one task of an array: submit it with $submit" >&2
    exit 64
    ;;
esac
if [ "$task" -gt "${#experiments[@]}" ]; then
    echo "task $task: there are ${#experiments[@]} experiments, numbered from 1" >&2
    exit 64
fi
experiment=${experiments[task - 1]}
"""

# A folder of its own: neither settings nor a Dagster home lie in it, so that the task depends on this text alone.
_RUN = r"""
scratch=$(mktemp -d) || exit 73
trap 'rm -rf -- "$scratch"' EXIT
cd -- "$scratch" || exit 73
ulimit -c 0
kept=()
for name in $names; do
    [ -z "${!name+x}" ] || kept+=("$name=${!name}")
done
for name in $threads; do
    kept+=("$name=$cpus")
done
echo "task $task: experiment $experiment on $(uname -n)"
env -i "${kept[@]}" "${given[@]}" "${command[@]}" --experiments "$experiment" </dev/null
code=$?
echo "task $task: experiment $experiment ended with code $code"
exit "$code"
"""


class ArrayScheduler(StrEnum):
    """Whose arrays."""

    slurm = "slurm"
    sge = "sge"


@dataclass(frozen=True, kw_only=True)
class ArrayScript:
    """What an array does.

    Parameters
    ----------
    experiments
        One per task, in order.
    action
        Action of `morphseq pipeline`.
    python, data_root, logs
        Python of the environment, data root, and an existing folder for logs, as the nodes see them.
    resources
        What each task needs. Sun Grid Engine takes `cpus`, `memory` and `time`, and the rest from the options below.
    environment
        Preamble and variables of a task.
    weights
        Where weights lie, by name, as the nodes see them.
    pipeline
        `module:attribute` of the pipeline; the project's own when empty.
    at_once
        Tasks that may run at the same time; None leaves it to the cluster.
    queue, slots, gpu_request
        Sun Grid Engine: queue, name of the parallel environment for several cpus, and the site's request for a GPU.

    Raises
    ------
    PermanentError
        For an empty list, and naming every value that a script could not carry.
    """

    experiments: tuple[str, ...]
    action: str
    python: str
    data_root: str
    logs: str
    resources: Resources = field(default_factory=Resources)
    environment: Environment = field(default_factory=Environment)
    weights: Mapping[str, str] = field(default_factory=dict)
    pipeline: str = ""
    at_once: int | None = None
    queue: str | None = None
    slots: str = "smp"
    gpu_request: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not self.experiments:
            raise PermanentError(
                expected="at least one experiment",
                found="an empty list",
                where="list of experiments",
                remedy="write one name per line; lines with # are comments",
            )
        wrong = [f"experiment {name!r}" for name in self.experiments if not is_plain_name(name)]
        if len(set(self.experiments)) < len(self.experiments):
            wrong.append("an experiment that is listed twice: two tasks would wait for each other")
        wrong += [f"{word!r}" for word in (self.action, self.slots, self.queue or "q") if not _WORD.fullmatch(word)]
        if self.gpu_request is not None and not _REQUEST.fullmatch(self.gpu_request):
            wrong.append(f"request for a GPU {self.gpu_request!r}")
        if self.pipeline and not _PIPELINE.fullmatch(self.pipeline):
            wrong.append(f"pipeline {self.pipeline!r}")
        if self.at_once is not None and self.at_once < 1:
            wrong.append(f"{self.at_once} tasks at once")
        refuse(wrong, where="script of an array")
        for path in (self.python, self.data_root, self.logs, *self.weights.values()):
            check_path(path)


def parse_list(text: str) -> tuple[str, ...]:
    """Read a list of experiments: one per line; blank lines, comments from # on and doubles do not count."""
    names = (line.partition("#")[0].strip() for line in text.removeprefix("\ufeff").splitlines())
    return tuple(dict.fromkeys(name for name in names if name))


def write_array_script(array: ArrayScript, *, scheduler: ArrayScheduler) -> str:
    """Write the script of an array.

    Raises
    ------
    PermanentError
        For GPUs on Sun Grid Engine without the site's request for them.
    """
    if scheduler is ArrayScheduler.slurm:
        options = [f"#SBATCH {option}" for option in _slurm_options(array)]
        task, cpus, submit = "${SLURM_ARRAY_TASK_ID:-}", "${SLURM_CPUS_PER_TASK:-1}", "sbatch"
    else:
        options = [f"#$ {option}" for option in _sge_options(array)]
        task, cpus, submit = "${SGE_TASK_ID:-}", "${NSLOTS:-1}", "qsub"
    command = [array.python, "-P", "-u", "-m", "morphseq_dagster.cli", "pipeline", array.action]
    command += ["--data-root", array.data_root]
    command += ["--pipeline", array.pipeline] if array.pipeline else []
    given = {"MORPHSEQ_PLACE": "process", **array.environment.variables}
    if array.weights:
        given["MORPHSEQ_WEIGHTS"] = json.dumps(dict(array.weights), sort_keys=True)
    lines = ["#!/bin/bash", *options, "# One experiment per task; written by `morphseq submit-script`."]
    lines += ["experiments=(", *(f"    {name}" for name in array.experiments), ")"]
    lines += [f"task={task}", f"cpus={cpus}", f"submit={submit}", _BODY.strip("\n")]
    if array.environment.preamble is not None:
        lines.append(f". {array.environment.preamble} || exit 126")
    lines += [f"names='{_KEPT}'", f"threads='{_THREADS}'"]
    lines += [f"given=({shlex.join(f'{n}={v}' for n, v in sorted(given.items()))})", f"command=({shlex.join(command)})"]
    lines.append(_RUN.strip("\n"))
    return "\n".join(lines) + "\n"


def _slurm_options(array: ArrayScript) -> list[str]:
    limit = "" if array.at_once is None else f"%{array.at_once}"
    found = ["--job-name=morphseq", f"--array=1-{len(array.experiments)}{limit}", f"--output={array.logs}/%A_%a.log"]
    return [*found, "--open-mode=append", "--export=NONE", *resource_options(array.resources)]


def _sge_options(array: ArrayScript) -> list[str]:
    needs = array.resources
    if needs.gpus is not None and array.gpu_request is None:
        raise PermanentError(
            expected="the site's request for a GPU",
            found=f"gpus = {needs.gpus}",
            where="script for Sun Grid Engine",
            remedy="give them with --gpu-request, such as gpgpu=TRUE,cuda=1",
        )
    options = ["-S /bin/bash", "-N morphseq", f"-t 1-{len(array.experiments)}", "-j y", f"-o {array.logs}"]
    if array.at_once is not None:
        options.append(f"-tc {array.at_once}")
    if array.queue is not None:
        options.append(f"-q {array.queue}")
    if needs.cpus > 1:
        options.append(f"-pe {array.slots} {needs.cpus}")
    if needs.memory_mb is not None:
        options.append(f"-l h_vmem={ceil(needs.memory_mb / needs.cpus)}M")  # counted per slot
    if needs.time_s is not None:
        hours, seconds = divmod(needs.time_s, 3600)
        options.append(f"-l h_rt={hours}:{seconds // 60:02d}:{seconds % 60:02d}")
    if needs.gpus is not None:
        options.append(f"-l {array.gpu_request}")
    return options
