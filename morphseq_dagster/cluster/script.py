"""Job scripts: the shell text that a node runs - it takes the claim, runs the command and writes the end record.

Everything variable in it has been checked by pattern (`job.py`), and data travel in `request.json` alone. Scripts of
arrays, for sites without a lasting connection, are `array_script.py`.
"""

from __future__ import annotations

import shlex

from morphseq_dagster.cluster.attempt_folder import INBOX, Attempt
from morphseq_dagster.cluster.job import ATTEMPT, JobSpec
from morphseq_dagster.settings.job_values import Resources, check_path

KEPT = "PATH HOME USER LOGNAME SHELL LANG LC_ALL TMPDIR LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES"
"""Variables of the node that a command gets, by the shell's loop below."""
THREADS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS OPENCV_FOR_THREADS_NUM"
"""Variables that are set to the number of processors."""

# In the order of the protocol. `ln` decides who works: the first one made stays. A job that was started again after a
# lost node keeps its number and passes; it leaves when a verdict exists, since another attempt may be at work.
_PROTOCOL = r"""
cd -- "$folder" || exit 72
if ! ln -s -n -- "$SLURM_JOB_ID" claim 2>/dev/null && [ "$(readlink claim)" != "$SLURM_JOB_ID" ]; then
    echo "job $SLURM_JOB_ID leaves: this attempt belongs to $(readlink claim)"
    exit 0
fi
if [ -e closed.json ] || [ -e cancel.json ]; then
    echo "job $SLURM_JOB_ID leaves: this attempt was closed or cancelled"
    exit 0
fi
ulimit -c 0
node=${SLURMD_NODENAME:-$(uname -n)}
restart=${SLURM_RESTART_COUNT:-0}
gpus=${CUDA_VISIBLE_DEVICES:-}
child=
caught=
# Each program that is started costs a node milliseconds, and jobs often end all at once: hence no `date`, `rm` or `mv`.
# A record is one write; what its file holds before, or after one that failed, is no record and counts as not there.
now() {
    t=${EPOCHREALTIME:-$(date +%s.%N)}
    t=${t/,/.}
}
pass() {
    caught=$1
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
finish() {
    rc=$?
    trap '' TERM USR1
    # The command may have died of a TERM that this shell has not yet been handed.
    [ -n "$caught" ] || [ "$rc" -ne 143 ] || caught=TERM
    times >end.json 2>/dev/null
    { read -r _; read -r cpu; } <end.json 2>/dev/null
    now
    printf '{"job": "%s", "rc": %d, "signal": "%s", "node": "%s", "restart": %d, "cpu": "%s", "t": %s}\n' \
        "$SLURM_JOB_ID" "$rc" "$caught" "$node" "$restart" "${cpu:-}" "$t" >end.json
    : >"$inbox/$SLURM_JOB_NAME"
    exit "$rc"
}
trap finish EXIT
trap 'pass TERM' TERM
trap 'pass USR1' USR1
now
printf '{"job": "%s", "node": "%s", "restart": %d, "gpus": "%s", "t": %s}\n' \
    "$SLURM_JOB_ID" "$node" "$restart" "$gpus" "$t" >start.json
"""

_RUN = r"""
kept=()
for name in $names; do
    [ -z "${!name+x}" ] || kept+=("$name=${!name}")
done
for name in $(compgen -A export SLURM_); do
    kept+=("$name=${!name}")
done
for name in $threads; do
    kept+=("$name=${SLURM_CPUS_PER_TASK:-1}")
done
[ -z "$caught" ] || exit 143
env -i "${kept[@]}" "${given[@]}" "${command[@]}" </dev/null &
child=$!
[ -z "$caught" ] || kill -s "$caught" "$child"
rc=127
while :; do
    wait "$child"
    code=$?
    [ "$code" -eq 127 ] || rc=$code
    kill -0 "$child" 2>/dev/null || break
done
# A wait that a signal cut short returned the signal's number; one more returns that of the child's own end.
wait "$child" 2>/dev/null
code=$?
[ "$code" -eq 127 ] || rc=$code
exit "$rc"
"""


def write_script(spec: JobSpec, *, attempt: Attempt, share: Resources | None = None) -> str:
    """Write the script of an attempt.

    Parameters
    ----------
    spec, attempt
        The job, and where its files lie.
    share
        For a job that works on several requests at once: what each of them may take for all that it was given.

    Raises
    ------
    PermanentError
        When the attempt's folder has a name that a script cannot carry.
    """
    there = check_path(attempt.there)
    # Nobody waits for the mark of a job that works on several: each has a mark of its own.
    inbox = there if share is not None else check_path(there.rsplit("/", len(spec.group) + 2)[0] + f"/{INBOX}")
    command = [argument.replace(ATTEMPT, there) for argument in spec.command]
    given = [f"{name}={value}" for name, value in sorted(spec.environment.variables.items())]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _batch_options(spec, attempt=attempt))]
    lines += [f"folder={there}", f"inbox={inbox}", _PROTOCOL.strip("\n")]
    if share is not None:
        lines.append(f"export SLURM_CPUS_PER_TASK={share.cpus}")
        if share.memory_mb is not None:
            lines.append(f"export SLURM_MEM_PER_NODE={max(1, int(share.memory_mb))}")
    if spec.environment.preamble is not None:
        lines.append(f". {check_path(spec.environment.preamble)} || exit 126")
    lines += [f"names='{KEPT}'", f"threads='{THREADS}'"]
    lines += [f"given=({shlex.join(given)})", f"command=({shlex.join(command)})", _RUN.strip("\n")]
    return "\n".join(lines) + "\n"


def resource_options(needs: Resources) -> list[str]:
    """Options of sbatch for one task on one node with these resources."""
    values = {
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": needs.cpus,
        "partition": needs.partition,
        "account": needs.account,
        "qos": needs.qos,
        "mem": needs.memory,
        "gres": None if needs.gpus is None else f"gpu:{needs.gpus}",
        "time": needs.time,
        "constraint": needs.constraint,
        "exclude": needs.exclude,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _batch_options(spec: JobSpec, *, attempt: Attempt) -> list[str]:
    """Options of sbatch for an attempt's script."""
    needs = spec.resources
    found = [
        f"--job-name={attempt.token}",
        f"--output={attempt.there}/log.txt",
        # A job that is started again would cut the log of its first life.
        "--open-mode=append",
        # sbatch itself is started with few variables, and the command with those that the script lists. NONE would have
        # the node's daemon start a login shell for every job, which takes seconds where profiles are long.
        "--export=ALL",
        # A second job of one name waits for the first; a second `--dependency` would replace this one.
        "--dependency=singleton",
        *resource_options(needs),
        "--requeue" if spec.requeue else "--no-requeue",
    ]
    warn_s = min(spec.warn_s, (needs.time_s or 0) // 4)
    if warn_s:
        found.append(f"--signal=B:USR1@{warn_s}")
    return found
