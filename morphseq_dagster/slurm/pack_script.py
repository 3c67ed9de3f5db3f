"""Scripts of packs: the shell text with which one allocation works on many requests, a few at a time.

Holds text only. A member's own script runs as it is, so that its claim, records and log are those of any job; what is
added is who takes which, that a member can be cancelled or run out of time alone, and that a member whose script was
killed still has an end record.
"""

from __future__ import annotations

import math
from typing import Final

from morphseq_dagster.slurm.folder import Attempt
from morphseq_dagster.slurm.job import JobSpec, Resources, check_path
from morphseq_dagster.slurm.script import PROTOCOL, batch_options

OVERDUE_S: Final = 60
"""Seconds from the warning that a member is out of time to its end by TERM."""

# A file that only one worker can make decides who takes a member. It counts for one life of the job: one that was
# started again takes up what its first life left, and nothing that had ended by itself. A worker that waits for its
# member looks at nothing, hence the signals: USR2 each second. They only make it look; what there is to do stands in
# files, since a shell loses one of two signals that come together.
_WORK = r"""
mapfile -t members <members
caught=
trap '' USR2
look() {
    local wish=
    if [ -e "stop.$restart.TERM" ]; then
        stop=TERM
    elif [ -e "stop.$restart.USR1" ]; then
        stop=USR1
    fi
    [ -n "$child" ] || return
    if [ -n "$stop" ]; then
        wish=$stop
    elif [ -e "$member/cancel.json" ]; then
        wish=TERM
    elif [ "$limit" -gt 0 ] && [ "$((SECONDS - began))" -ge "$limit" ]; then
        wish=USR1
        [ "$((SECONDS - began))" -lt "$((limit + overdue))" ] || wish=TERM
    fi
    [ -n "$wish" ] && [ "$told" != "$wish" ] && [ "$told" != TERM ] || return
    kill -s "$wish" "$child" 2>/dev/null
    told=$wish
}
is_over() {
    local end=
    [ ! -e "$member/closed.json" ] && [ ! -e "$member/cancel.json" ] || return 0
    [ -e "$member/end.json" ] || return 1
    read -r end <"$member/end.json"
    [[ $end != *'"signal": "TERM"'* ]]
}
run_member() {
    local code=127 rc signal=
    told=
    began=$SECONDS
    SLURM_JOB_NAME=$1 bash "$member/job.sh" </dev/null >>"$member/log.txt" 2>&1 &
    child=$!
    look
    while :; do
        wait "$child"
        rc=$?
        [ "$rc" -eq 127 ] || code=$rc
        kill -0 "$child" 2>/dev/null || break
    done
    # As in a member's script: a wait that a signal cut short told the signal's number, one more tells the end.
    wait "$child" 2>/dev/null
    rc=$?
    [ "$rc" -eq 127 ] || code=$rc
    child=
    [ ! -e "$member/end.json" ] && [ "$(readlink "$member/claim")" = "$SLURM_JOB_ID" ] || return
    [ "$code" -ne 143 ] || signal=TERM
    printf '{"job": "%s", "rc": %d, "signal": "%s", "node": "%s", "restart": %d, "cpu": "", "t": %s}\n' \
        "$SLURM_JOB_ID" "$code" "$signal" "$node" "$restart" "$(date +%s.%N)" >|"$member/.end.$restart" &&
        mv -f "$member/.end.$restart" "$member/end.json"
    : >|"$ended/$1"
}
work() {
    local line n=0
    set -o noclobber
    child= member= stop= told= began=0
    trap look TERM USR1 USR2
    export SLURM_CPUS_PER_TASK=$cpus
    [ -z "$memory" ] || export SLURM_MEM_PER_NODE=$memory
    for line in "${members[@]}"; do
        n=$((n + 1))
        [ -z "$stop" ] || break
        member=$root/${line#* }
        is_over && continue
        { : >"taken.$restart.$n"; } 2>/dev/null || continue
        run_member "${line%% *}"
    done
}
pids=()
pass() {
    caught=$1
    : >"stop.$restart.$1"
    [ "${#pids[@]}" -eq 0 ] || kill -s "$1" "${pids[@]}" 2>/dev/null
}
for ((slot = 0; slot < workers; slot++)); do
    work &
    pids+=("$!")
done
[ -z "$caught" ] || pass "$caught"
while :; do
    left=()
    for pid in "${pids[@]}"; do
        ! kill -0 "$pid" 2>/dev/null || left+=("$pid")
    done
    pids=("${left[@]}")
    [ "${#pids[@]}" -gt 0 ] || break
    sleep 1 &
    wait "$!"
    kill -s USR2 "${pids[@]}" 2>/dev/null
done
[ "$caught" != TERM ] || exit 143
exit 0
"""


def write_pack_script(pack: Attempt, *, one: JobSpec, needs: Resources, workers: int) -> str:
    """Write the script of a pack.

    Parameters
    ----------
    pack
        The pack.
    one
        One of its members; all ask for the same.
    needs
        What the allocation asks for.
    workers
        Members at work at once.

    Raises
    ------
    PermanentError
        When the pack's folder has a name that a script cannot carry.
    """
    there = check_path(pack.there)
    root = there.rsplit("/", 3)[0]
    options = batch_options(pack, needs=needs, requeue=one.requeue, warn_s=one.warn_s)
    memory_mb = one.resources.memory_mb
    values = {
        "folder": there,
        # Nobody waits for the mark of the pack itself.
        "inbox": there,
        "root": root,
        "ended": f"{root}/{pack.inbox.name}",
        "workers": workers,
        "cpus": one.resources.cpus,
        "memory": "" if memory_mb is None else max(1, math.floor(memory_mb)),
        "limit": one.resources.time_s or 0,
        "overdue": OVERDUE_S,
    }
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
    lines += [f"{name}={value}" for name, value in values.items()]
    return "\n".join([*lines, PROTOCOL.strip("\n"), _WORK.strip("\n")]) + "\n"
