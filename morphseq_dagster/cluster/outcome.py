"""Outcomes: what the end of a job was, judged from its files and from the scheduler's answers.

A pure table. Only a done request is a success; states and codes explain the rest, and prove little alone: accounting
shows 0:0 for a time limit and for a cancelled job, and the same three values for a job over its memory and a killed
one. Which ends are tried again is `retry.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from morphseq_dagster.cluster.commands import Row, Sighting

ACTIVE: Final = frozenset(
    (
        "PENDING",
        "RUNNING",
        "COMPLETING",
        "CONFIGURING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "RESIZING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
        "POWER_UP_NODE",
        "LAUNCH_FAILED",
        "RECONFIG_FAIL",
    )
)
"""States in which a job has not ended, or will start again by itself."""
_CRASHES: Final = frozenset((4, 5, 6, 7, 8, 11, 31))  # ILL TRAP ABRT BUS FPE SEGV SYS
_USR1, _KILL, _TERM = 10, 9, 15
_NO_FOLDER: Final = 53
_MARK: Final = re.compile(rb"(?m)^(?:slurmstepd|slurmd)\b[^\n]*?error:[^\n]*")


class JobOutcome(StrEnum):
    """Ends of an attempt."""

    DONE = "done"
    FAILED = "failed"
    CRASH = "crash"
    KILLED = "killed"
    OOM = "oom"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    NODE = "node"
    PREEMPTED = "preempted"
    CONFIG = "config"
    REJECTED = "rejected"
    LOST = "lost"
    VOID = "void"


# In this order: the log of a job over its memory also calls it cancelled.
_MEANING: Final = {
    JobOutcome.OOM: re.compile(r"exceeded.*memory|\boom|out of memory", re.IGNORECASE),
    JobOutcome.TIMEOUT: re.compile(r"due to time limit", re.IGNORECASE),
    JobOutcome.NODE: re.compile(r"due to node failure", re.IGNORECASE),
    JobOutcome.PREEMPTED: re.compile(r"due to preemption", re.IGNORECASE),
    JobOutcome.CANCELLED: re.compile(r"cancelled at (?!.*due to job requeue)", re.IGNORECASE),
}


@dataclass(frozen=True)
class End:
    """The end record that a job's script leaves; not final, since a job may be started again."""

    code: int
    signal: str = ""


_TERMED: Final = "ended by TERM"
_NO_RESULT: Final = "the job ended with code 0 and left no result"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything known of one attempt at one moment.

    Parameters
    ----------
    done
        Whether the request is done.
    queue
        Row of squeue, or that an answer lacks it; None without an answer.
    account
        The same of sacct; None also where there is no accounting.
    accounting
        Whether there is accounting to ask.
    seen
        State and reason saved from an earlier answer of the controller.
    end
        End record of this job in its present life.
    log
        Last bytes of the log.
    unclear_s
        Seconds since neither answer has the job, or since it completed without a result.
    again
        Whether the scheduler may start the job again by itself.
    began
        False when the scheduler counts a life of the job that has left no start record.
    lost_s, settle_s, confirm_s
        How long to wait: with unknown jobs, with completed ones without a result, and with an end that may be the pause
        before the scheduler starts the job again.
    """

    done: bool
    queue: Row | Sighting | None
    account: Row | Sighting | None = None
    accounting: bool = True
    seen: tuple[str, str | None] | None = None
    end: End | None = None
    log: bytes = b""
    unclear_s: float = 0.0
    lost_s: float = 60.0
    settle_s: float = 30.0
    again: bool = False
    began: bool = True
    confirm_s: float = 3.0


@dataclass(frozen=True)
class Diagnosis:
    """What an end was, with state and reason of the scheduler where there are any."""

    outcome: JobOutcome
    state: str = ""
    reason: str = ""


def is_active(row: Row) -> bool:
    """Whether a row shows a job that has not ended."""
    return row.state in ACTIVE


def classify(evidence: Evidence) -> Diagnosis | None:
    """Judge an end; None while the job has not ended or nobody knows."""
    queue = evidence.queue
    if evidence.done:
        return Diagnosis(JobOutcome.DONE, queue.state if isinstance(queue, Row) else "")
    if queue is None:
        return None  # no answer proves nothing
    if isinstance(queue, Row):
        return None if is_active(queue) else _of_state(evidence, state=queue.state, reason=queue.reason or "")
    return _of_silence(evidence)


def _of_silence(evidence: Evidence) -> Diagnosis | None:
    """Judge a job that the controller does not show: by its earlier answer, accounting, the end record."""
    account = evidence.account
    state, reason = evidence.seen or ("", None)
    if state:
        return _of_state(evidence, state=state, reason=reason or "")
    # What accounting calls active may have died with its node, or the row trails: the controller knows better.
    if isinstance(account, Row) and not is_active(account):
        return _of_state(evidence, state=account.state, reason="")
    if evidence.end is not None and (evidence.end.code != 0 or evidence.end.signal):
        return _of_state(evidence, state="", reason="")
    if (account is None and evidence.accounting) or evidence.unclear_s < evidence.lost_s:
        return None
    return _of_files(evidence)


def _of_files(evidence: Evidence) -> Diagnosis:
    """Judge a job that nobody knows any more by its files."""
    if marked := _of_log(evidence.log):
        return Diagnosis(marked[0], "", marked[1])
    if evidence.end is not None:
        return Diagnosis(JobOutcome.FAILED, "", _NO_RESULT)
    return Diagnosis(
        JobOutcome.LOST, "", f"neither controller nor accounting has known the job for {evidence.lost_s:g} s"
    )


def _of_state(evidence: Evidence, *, state: str, reason: str) -> Diagnosis | None:
    plain = {
        "NODE_FAIL": JobOutcome.NODE,
        "BOOT_FAIL": JobOutcome.NODE,
        "PREEMPTED": JobOutcome.PREEMPTED,
        "OUT_OF_MEMORY": JobOutcome.OOM,
        "TIMEOUT": JobOutcome.TIMEOUT,
        "DEADLINE": JobOutcome.TIMEOUT,
        "CANCELLED": JobOutcome.CANCELLED,
        "REVOKED": JobOutcome.LOST,
    }
    if evidence.unclear_s < _pause_of(evidence, state=state):
        return None
    if state in plain:
        return Diagnosis(plain[state], state, reason)
    if state == "COMPLETED":
        return Diagnosis(JobOutcome.FAILED, state, _NO_RESULT)
    outcome, why = _of_end(evidence)
    return Diagnosis(outcome, state, ", ".join(part for part in (reason, why) if part))


def _pause_of(evidence: Evidence, *, state: str) -> float:
    """Seconds for which an end is not believed."""
    if state == "COMPLETED":
        return evidence.settle_s
    if not evidence.began:
        return evidence.settle_s  # its start record may not be visible yet
    marks = _MARK.findall(evidence.log)
    if marks and b"DUE TO JOB REQUEUE" in marks[-1]:
        return evidence.lost_s  # it is on its way back into the queue
    # A job that will be started again is ended by TERM and shown as failed before its log and its row explain it.
    if evidence.again and state == "FAILED" and _of_end(evidence)[1] == _TERMED:
        return evidence.confirm_s
    if not isinstance(evidence.queue, Row):
        return 0.0  # what the controller has forgotten does not start again
    return evidence.confirm_s if evidence.again and state in ("NODE_FAIL", "PREEMPTED") else 0.0


def _of_end(evidence: Evidence) -> tuple[JobOutcome, str]:
    """Judge a failure: by marks in the log, then the end record, then the scheduler's codes."""
    if evidence.began and (marked := _of_log(evidence.log)):
        return marked
    if evidence.began and evidence.end is not None:
        by_signal = {
            "USR1": (JobOutcome.TIMEOUT, "ended after the warning before its time limit"),
            "TERM": (JobOutcome.KILLED, _TERMED),
        }
        return by_signal.get(evidence.end.signal) or _of_code(evidence.end.code)
    rows = [row for row in (evidence.queue, evidence.account) if isinstance(row, Row) and (row.exit_code or row.signal)]
    number = rows[0].signal if rows else None
    if number == _NO_FOLDER:
        return JobOutcome.CONFIG, "the node could not open the job's folder (0:53)"
    if not evidence.began:
        # A node does this when it takes the new life for the old one that it had to end.
        return JobOutcome.NODE, "started again by the scheduler, and never begun by the node"
    if not rows:
        return JobOutcome.FAILED, "neither code nor end record"
    code = rows[0].exit_code or 0
    return _of_code(128 + number if number else code)


def _of_code(code: int) -> tuple[JobOutcome, str]:
    number = code - 128
    if number in _CRASHES:
        return JobOutcome.CRASH, f"ended by signal {number}"
    if number == _USR1:
        return JobOutcome.TIMEOUT, "ended by the warning before its time limit"
    if number == _KILL:
        return JobOutcome.KILLED, "ended by KILL (too little memory is one cause, not proven)"
    if number == _TERM:
        return JobOutcome.KILLED, _TERMED
    if code in (72, 126, 127):
        return JobOutcome.CONFIG, f"code {code}: folder, preamble or program not there on the node"
    return JobOutcome.FAILED, f"exit code {code}"


def _of_log(log: bytes) -> tuple[JobOutcome, str] | None:
    """Find the marks of the node's daemon; lines of the job itself do not count."""
    marks = [line.decode("utf-8", "backslashreplace") for line in _MARK.findall(log)]
    for outcome, pattern in _MEANING.items():
        for text in reversed(marks):
            if pattern.search(text):
                return outcome, text
    return None
