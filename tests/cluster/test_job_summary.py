"""How steps at a cluster stand, as the files of their attempts tell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.job_files import StateCache, read_state
from morphseq_dagster.cluster.job_summary import summarise_jobs
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.snapshot import RemoteWork

GROUP = ("letters", "20240418")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A data root at a moment at which the clock stands still, since ages are told by the second."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    return Layout(tmp_path)


def begin(layout: Layout, *, key: str = "ab" * 32, number: int = 1, job: str = "7", ago_s: float = 30) -> Attempt:
    root = JobRoot(layout.jobs)
    attempt = root.attempt(GROUP, key=key, number=number)
    root.begin(attempt)
    attempt.write("intent", t=time.time() - ago_s, host="h", pid=1, run_id="r", resources={})
    if job:
        attempt.write("job", job=job)
    return attempt


def log(attempt: Attempt, state: str, reason: str = "", node: str = "") -> None:
    StateCache().keep(attempt, row=Row(attempt.job or "", attempt.token, state, reason, node))


def summary(layout: Layout) -> RemoteWork:
    (found,) = summarise_jobs(layout).items()
    assert found[0] == GROUP
    return found[1]


def test_without_jobs_there_is_nothing(layout: Layout) -> None:
    assert summarise_jobs(layout) == {}


def test_job_that_waits_is_queued_with_the_last_reason_and_its_age(layout: Layout) -> None:
    attempt = begin(layout)
    found = summary(layout)
    assert (found.state, found.job, found.detail) == ("queued", "7", "submitted 30 s ago")
    log(attempt, "PENDING", "Priority")
    found = summary(layout)
    assert (found.state, found.detail) == ("queued", "PENDING (Priority), as the cluster said 0 s ago")


def test_submission_without_a_number_yet_is_queued(layout: Layout) -> None:
    begin(layout, job="")
    assert (summary(layout).state, summary(layout).detail) == ("queued", "being submitted")


def test_job_that_has_begun_is_running_on_its_node_also_when_the_cluster_was_not_heard_since(layout: Layout) -> None:
    attempt = begin(layout)
    log(attempt, "PENDING", "Priority")
    attempt.write("start", job="7", node="n3", restart=0, t=time.time() + 5)
    assert (summary(layout).state, summary(layout).detail) == ("running", "on n3 for 0 s")


def test_job_that_is_started_again_is_queued_until_it_begins(layout: Layout) -> None:
    attempt = begin(layout)
    attempt.write("start", job="7", node="n3", restart=0, t=time.time() - 5)
    attempt.write("end", job="7", rc=143, signal="TERM", restart=0, t=time.time() - 4)
    assert summary(layout).state == "ended"
    attempt.write("start", job="7", node="n3", restart=1, t=time.time() - 3)
    assert summary(layout).state == "running"
    log(attempt, "PENDING", "BeginTime")
    assert summary(layout).state == "queued"


def test_end_without_a_verdict_is_told_with_what_to_do(layout: Layout) -> None:
    attempt = begin(layout)
    attempt.write("end", job="7", rc=9, signal="", restart=0, t=time.time())
    assert summary(layout).state == "ended"
    assert "code 9" in summary(layout).detail
    assert "--reconcile" in summary(layout).detail


def test_result_or_verdict_leaves_no_summary(layout: Layout) -> None:
    first = begin(layout)
    first.write("end", job="7", rc=0, signal="", restart=0, t=time.time())
    assert summarise_jobs(layout) == {}
    first.close(kind="done")
    begin(layout, number=2).close(kind="failed")
    assert summarise_jobs(layout) == {}


def test_newest_attempt_counts(layout: Layout) -> None:
    begin(layout, job="7", ago_s=500).close(kind="node")
    begin(layout, number=2, job="8", ago_s=300)
    assert summary(layout).job == "8"
    begin(layout, key="cd" * 32, job="9", ago_s=10)
    assert summary(layout).job == "9"
    assert summarise_jobs(layout, experiments={"20990101"}) == {}


def test_task_of_a_pilot_job_runs_when_it_has_begun_itself(layout: Layout) -> None:
    attempt = begin(layout)
    intent = attempt.record("intent") or {}
    attempt.write("intent", **intent, pack=f"ms.{'0' * 32}.{'1' * 8}.a1")
    log(attempt, "RUNNING", node="n1")
    assert summary(layout).state == "queued"
    attempt.write("start", job="7", node="n1", restart=0, t=time.time())
    assert summary(layout).state == "running"


def test_same_word_is_written_again_after_a_minute_alone(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, words = begin(layout), StateCache()
    row = Row("7", attempt.token, "PENDING", "Priority")
    start = time.time()
    heard = []
    for later in (0, 59, 61, 62):
        monkeypatch.setattr(time, "time", lambda later=later: start + later)
        words.keep(attempt, row=row)
        word = read_state(attempt)
        assert word is not None
        heard.append(word.said_at - start)
    assert heard == [0, 0, 61, 61]
    words.keep(attempt, row=Row("7", attempt.token, "RUNNING", node="n1"))
    word = read_state(attempt)
    assert word is not None
    assert (word.state, word.node) == ("RUNNING", "n1")
