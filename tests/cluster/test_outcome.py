"""The table of ends: what squeue, sacct, end record and log said of a real Slurm 22.05, and what it means."""

from __future__ import annotations

import pytest

from morphseq_dagster.cluster.commands import Row, Sighting
from morphseq_dagster.cluster.outcome import End, Evidence, JobOutcome, classify

NONE = Sighting.NOT_FOUND
EMPTY = Sighting.EMPTY


def row(state: str, reason: str | None = None, code: int = 0, signal: int = 0) -> Row:
    return Row("7", "ms.x", state, reason, "n1", code, signal)


def mark(text: str) -> bytes:
    return f"some line\nslurmstepd: error: {text}\n".encode()


CANCELLED_MARK = mark("*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***")
TIME_MARK = mark("*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***")
NODE_MARK = mark(
    "*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"
)
PREEMPTION_MARK = mark("*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***")
MEMORY_MARK = mark("Job 7 exceeded memory limit (90000000 > 67108864), being killed") + CANCELLED_MARK
CGROUP_MARK = mark("Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks have been OOM Killed.")

# name, row of squeue, row of sacct, end record, log, what it is
ROWS = [
    ("body raises", row("FAILED", "NonZeroExitCode", 1), row("FAILED", code=1), End(1), b"", JobOutcome.FAILED),
    ("exit 7", row("FAILED", "NonZeroExitCode", 7), row("FAILED", code=7), End(7), b"", JobOutcome.FAILED),
    ("SIGSEGV", row("FAILED", "NonZeroExitCode", 139), row("FAILED", signal=11), End(139), b"", JobOutcome.CRASH),
    ("SIGKILL", row("FAILED", "NonZeroExitCode", 137), row("FAILED", signal=9), End(137), b"", JobOutcome.KILLED),
    (
        "over memory",
        row("FAILED", "JobLaunchFailure", 0, 9),
        row("FAILED", signal=9),
        None,
        MEMORY_MARK,
        JobOutcome.OOM,
    ),
    (
        "killed hard",
        row("FAILED", "JobLaunchFailure", 0, 9),
        row("FAILED", signal=9),
        None,
        CANCELLED_MARK,
        JobOutcome.CANCELLED,
    ),
    (
        "killed hard, no log",
        row("FAILED", "JobLaunchFailure", 0, 9),
        row("FAILED", signal=9),
        None,
        b"",
        JobOutcome.KILLED,
    ),
    (
        "memory by cgroup",
        row("OUT_OF_MEMORY", "OutOfMemory", 0, 125),
        row("OUT_OF_MEMORY"),
        None,
        CGROUP_MARK,
        JobOutcome.OOM,
    ),
    ("memory by cgroup, child", row("FAILED", "NonZeroExitCode", 137), None, End(137), CGROUP_MARK, JobOutcome.OOM),
    (
        "scancel running",
        row("CANCELLED", None, 143),
        row("CANCELLED"),
        End(143, "TERM"),
        CANCELLED_MARK,
        JobOutcome.CANCELLED,
    ),
    ("scancel pending", row("CANCELLED", "Resources"), row("CANCELLED"), None, b"", JobOutcome.CANCELLED),
    ("time limit", row("TIMEOUT", "TimeLimit", 143), row("TIMEOUT"), End(143, "TERM"), TIME_MARK, JobOutcome.TIMEOUT),
    (
        "warning unheeded",
        row("FAILED", "NonZeroExitCode", 138),
        row("FAILED", signal=10),
        End(138, "USR1"),
        b"",
        JobOutcome.TIMEOUT,
    ),
    (
        "warning heeded",
        row("FAILED", "NonZeroExitCode", 1),
        row("FAILED", code=1),
        End(1, "USR1"),
        b"",
        JobOutcome.TIMEOUT,
    ),
    ("deadline", row("DEADLINE"), row("DEADLINE"), None, b"", JobOutcome.TIMEOUT),
    ("node down", row("NODE_FAIL", "NodeDown"), row("NODE_FAIL"), End(143, "TERM"), NODE_MARK, JobOutcome.NODE),
    ("node lost", row("NODE_FAIL", "NodeDown"), row("NODE_FAIL"), None, b"", JobOutcome.NODE),
    ("boot failed", row("BOOT_FAIL"), row("BOOT_FAIL"), None, b"", JobOutcome.NODE),
    ("preempted", row("PREEMPTED"), row("PREEMPTED"), End(143, "TERM"), PREEMPTION_MARK, JobOutcome.PREEMPTED),
    (
        "folder missing",
        row("FAILED", "JobLaunchFailure", 0, 53),
        row("FAILED", signal=53),
        None,
        b"",
        JobOutcome.CONFIG,
    ),
    (
        "program missing",
        row("FAILED", "NonZeroExitCode", 127),
        row("FAILED", code=127),
        End(127),
        b"",
        JobOutcome.CONFIG,
    ),
    (
        "preamble missing",
        row("FAILED", "NonZeroExitCode", 126),
        row("FAILED", code=126),
        End(126),
        b"",
        JobOutcome.CONFIG,
    ),
    ("asked to stop", row("FAILED", "NonZeroExitCode", 143), None, End(143, "TERM"), b"", JobOutcome.KILLED),
]


@pytest.mark.parametrize(("queue", "account", "end", "log", "outcome"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_end_means(queue: Row, account: Row | None, end: End | None, log: bytes, outcome: JobOutcome) -> None:
    found = classify(Evidence(done=False, queue=queue, account=account, end=end, log=log))
    assert found is not None
    assert found.outcome is outcome


@pytest.mark.parametrize(("queue", "account", "end", "log", "outcome"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_end_means_the_same_without_accounting(
    queue: Row, account: Row | None, end: End | None, log: bytes, outcome: JobOutcome
) -> None:
    found = classify(Evidence(done=False, queue=queue, accounting=False, end=end, log=log))
    assert found is not None
    assert found.outcome is outcome


# The controller has forgotten the job; accounting knows no reason and folds codes above 128.
FORGOTTEN = [r for r in ROWS if r[2] is not None]


@pytest.mark.parametrize(
    ("account", "end", "log", "outcome"), [r[2:] for r in FORGOTTEN], ids=[r[0] for r in FORGOTTEN]
)
def test_end_means_the_same_when_the_controller_forgot(
    account: Row, end: End | None, log: bytes, outcome: JobOutcome
) -> None:
    found = classify(Evidence(done=False, queue=NONE, account=account, end=end, log=log))
    assert found is not None
    assert found.outcome is outcome


def test_reason_that_was_seen_outlives_the_controllers_memory() -> None:
    found = classify(Evidence(done=False, queue=EMPTY, seen=("NODE_FAIL", "NodeDown"), account=row("RUNNING")))
    assert found is not None
    assert (found.outcome, found.reason) == (JobOutcome.NODE, "NodeDown")


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"]
)
def test_active_job_has_no_verdict_whatever_its_first_life_left(state: str) -> None:
    left = Evidence(done=False, queue=row(state, "BeginTime"), end=End(143, "TERM"), seen=("NODE_FAIL", "NodeDown"))
    assert classify(left) is None


def test_done_is_done_whatever_the_scheduler_says() -> None:
    for queue in (None, EMPTY, NONE, row("FAILED", "NonZeroExitCode", 1), row("RUNNING")):
        found = classify(Evidence(done=True, queue=queue, end=End(1)))
        assert found is not None
        assert found.outcome is JobOutcome.DONE


def test_completed_without_a_result_is_failed_after_some_time_and_not_before() -> None:
    early = Evidence(done=False, queue=row("COMPLETED"), end=End(0), unclear_s=29, settle_s=30)
    assert classify(early) is None
    found = classify(Evidence(done=False, queue=row("COMPLETED"), end=End(0), unclear_s=30, settle_s=30))
    assert found is not None
    assert found.outcome is JobOutcome.FAILED


@pytest.mark.parametrize("end", [None, End(0), End(1), End(143, "TERM")])
def test_no_answer_proves_nothing(end: End | None) -> None:
    assert classify(Evidence(done=False, queue=None, account=row("FAILED", code=1), end=end, unclear_s=1e9)) is None


@pytest.mark.parametrize("queue", [EMPTY, NONE])
def test_empty_answers_are_lost_only_after_both_were_empty_for_a_while(queue: Sighting) -> None:
    assert classify(Evidence(done=False, queue=queue, account=None, unclear_s=1e9)) is None, "accounting did not answer"
    assert classify(Evidence(done=False, queue=queue, account=EMPTY, unclear_s=59)) is None
    found = classify(Evidence(done=False, queue=queue, account=EMPTY, unclear_s=60))
    assert found is not None
    assert found.outcome is JobOutcome.LOST
    found = classify(Evidence(done=False, queue=queue, account=None, accounting=False, unclear_s=60))
    assert found is not None
    assert found.outcome is JobOutcome.LOST


def test_accounting_that_still_calls_it_running_is_no_end() -> None:
    assert classify(Evidence(done=False, queue=NONE, account=row("RUNNING"), unclear_s=10)) is None


def test_end_record_of_a_failure_counts_once_the_controller_no_longer_has_the_job() -> None:
    found = classify(Evidence(done=False, queue=NONE, account=None, end=End(7)))
    assert found is not None
    assert found.outcome is JobOutcome.FAILED


def test_what_the_job_itself_prints_is_no_mark_of_the_daemon() -> None:
    log = b"my tool: error: exceeded memory limit\nCANCELLED AT noon DUE TO TIME LIMIT\n"
    found = classify(Evidence(done=False, queue=row("FAILED", "NonZeroExitCode", 1), end=End(1), log=log))
    assert found is not None
    assert found.outcome is JobOutcome.FAILED


def test_end_that_the_scheduler_may_undo_is_believed_a_little_later() -> None:
    lost = Evidence(done=False, queue=row("NODE_FAIL", "NodeDown"), again=True, unclear_s=1, confirm_s=3)
    assert classify(lost) is None
    requeued = mark("*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO JOB REQUEUE ***")
    shown = Evidence(done=False, queue=row("FAILED", "NonZeroExitCode", 143), end=End(143, "TERM"), log=requeued)
    assert classify(shown) is None
    assert classify(Evidence(**{**shown.__dict__, "unclear_s": 60})) is not None


@pytest.mark.parametrize(
    ("end", "log", "outcome"),
    [
        (None, MEMORY_MARK, JobOutcome.OOM),
        (None, CANCELLED_MARK, JobOutcome.CANCELLED),
        (End(0), b"", JobOutcome.FAILED),
        (None, b"", JobOutcome.LOST),
    ],
)
def test_files_tell_the_end_that_nobody_else_remembers(end: End | None, log: bytes, outcome: JobOutcome) -> None:
    silent = Evidence(done=False, queue=EMPTY, accounting=False, end=end, log=log, unclear_s=60, lost_s=60)
    assert classify(Evidence(**{**silent.__dict__, "unclear_s": 59})) is None
    found = classify(silent)
    assert found is not None
    assert found.outcome is outcome


def test_life_that_the_node_never_began_is_not_told_by_what_the_life_before_left() -> None:
    requeued = mark("*** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO JOB REQUEUE ***")
    shown = row("FAILED", "NonZeroExitCode", 1)
    unbegun = Evidence(
        done=False, queue=shown, end=End(143, "TERM"), log=requeued, again=True, began=False, settle_s=30
    )
    assert classify(Evidence(**{**unbegun.__dict__, "unclear_s": 29})) is None, (
        "its start may be slow to come into sight"
    )
    found = classify(Evidence(**{**unbegun.__dict__, "unclear_s": 30}))
    refused = row("FAILED", "JobLaunchFailure", 0, 53)
    lost = classify(Evidence(**{**unbegun.__dict__, "unclear_s": 30, "queue": refused}))
    assert found.outcome is JobOutcome.NODE
    lost = classify(
        Evidence(**{**unbegun.__dict__, "unclear_s": 30, "queue": row("FAILED", "JobLaunchFailure", 0, 53)})
    )
    assert lost is not None
    assert lost.outcome is JobOutcome.CONFIG
