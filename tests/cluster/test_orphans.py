"""Jobs whose run has ended, on a real scheduler: kept, cancelled, closed as what they were, or only reported."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.orphans import (
    Orphan,
    OrphanAction,
    Policy,
    Survey,
    find_result,
    note_suspension,
    settle_orphans,
    survey_jobs,
)
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.executors.protocol import RunStanding, RunState
from morphseq_dagster.engine.locked_step import lock_step
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE, word_file
from tests.support.slurm_bench import wait_for

GONE = 2**22 + 1  # above the largest number of a process


@pytest.fixture
def relay(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root", RELAY_PIPELINE)


@pytest.fixture
def client(slurm: SlurmSettings, relay: Workspace) -> Iterator[Client]:
    """Client of the cluster; what is left at work is cancelled."""
    found = connect(slurm, data_root=relay.data_root)[0]
    yield found
    left = [attempt for _, _, attempt in found.root.open_attempts()]
    found.cancel(left)


def make_request_job(
    workspace: Workspace, slurm: SlurmSettings, experiment: str, *, run_id: str, slow_s: float
) -> RequestJob:
    word_file(workspace.layout, experiment).parent.mkdir(parents=True, exist_ok=True)
    word_file(workspace.layout, experiment).write_text("word\n")
    recipe = workspace.layout.recipes(experiment)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f"[first]\nslow_s = {slow_s}\n")
    spec = workspace.pipeline.steps[0]
    with lock_step(spec, workspace=workspace, experiment=experiment, run_id=run_id) as session:
        return RequestJob(slurm, pipeline=RELAY, request=session.request)


def leave_job(
    workspace: Workspace, slurm: SlurmSettings, experiment: str, *, run_id: str = "one", slow_s: float = 280
) -> Attempt:
    """Submit a job that nobody waits for, as a killed run leaves it."""
    found = make_request_job(workspace, slurm, experiment, run_id=run_id, slow_s=slow_s).ensure()
    assert isinstance(found, JobHandle)
    return found.attempt


def view(
    workspace: Workspace,
    client: Client | None,
    *,
    policy: Policy = "keep",
    after_s: float = 0,
    ended_at: float | None = None,
    **runs: RunState,
) -> Survey:
    words: Mapping[str, RunStanding] = {name: RunStanding(state, ended_at) for name, state in runs.items()}
    return survey_jobs(
        workspace.layout,
        client=client,
        state_of=lambda run_id: words.get(run_id, RunStanding("unknown")),
        policy=policy,
        after_s=after_s,
    )


def settle(workspace: Workspace, client: Client, survey: Survey) -> dict[str, Orphan]:
    done = settle_orphans(workspace.layout, client=client, survey=survey)
    return {orphan.experiment: orphan for orphan in done}


def kind_of(attempt: Attempt) -> str | None:
    closed = attempt.record("closed")
    return None if closed is None else str(closed["kind"])


@pytest.mark.slurm
def test_jobs_of_a_cancelled_run_are_cancelled_in_one_call_and_others_left(
    relay: Workspace, slurm: SlurmSettings, client: Client
) -> None:
    bulk = [leave_job(relay, slurm, f"2024040{n}", run_id="bulk") for n in range(1, 4)]
    other = leave_job(relay, slurm, "20240404", run_id="other")
    before = client.scheduler.calls.copy()
    survey = view(relay, client, bulk="canceled", other="live")
    assert client.scheduler.calls["squeue"] - before["squeue"] == 1
    assert [orphan.action for orphan in survey.orphans] == [OrphanAction.CANCELLED] * 3 + [OrphanAction.LEFT]
    assert [kind_of(attempt) for attempt in bulk] == [None] * 3, "looking does nothing"
    settle(relay, client, survey)
    assert client.scheduler.calls["scancel"] - before["scancel"] == 1
    assert [kind_of(attempt) for attempt in bulk] == ["cancelled"] * 3
    assert kind_of(other) is None
    assert [orphan.attempt for orphan in view(relay, client, other="live").orphans] == [other]


@pytest.mark.slurm
def test_job_of_a_run_that_is_over_is_kept_or_cancelled_after_its_time(
    relay: Workspace, slurm: SlurmSettings, client: Client
) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    assert settle(relay, client, view(relay, client, one="over"))["20240401"].action is OrphanAction.KEPT
    late = view(relay, client, policy="cancel", after_s=3600, ended_at=time.time() - 60, one="over")
    assert settle(relay, client, late)["20240401"].action is OrphanAction.KEPT
    assert kind_of(attempt) is None
    due = view(relay, client, policy="cancel", after_s=30, ended_at=time.time() - 60, one="over")
    assert settle(relay, client, due)["20240401"].action is OrphanAction.CANCELLED
    assert kind_of(attempt) == "cancelled"


@pytest.mark.slurm
def test_time_of_a_run_whose_end_nobody_noted_counts_from_when_it_was_noticed(
    relay: Workspace, slurm: SlurmSettings, client: Client
) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    first = view(relay, client, policy="cancel", after_s=100, one="over")
    assert first.orphans[0].action is OrphanAction.KEPT
    assert attempt.record("orphan") is None, "looking writes nothing"
    settle(relay, client, first)
    noted = attempt.record("orphan")
    assert noted is not None
    attempt.write("orphan", **{**noted, "t": noted["t"] - 101})
    assert view(relay, client, policy="cancel", after_s=100, one="over").orphans[0].action is OrphanAction.CANCELLED


@pytest.mark.slurm
@pytest.mark.parametrize("state", ["canceled", "over"])
def test_result_that_nobody_waited_for_is_handed_over(
    relay: Workspace, slurm: SlurmSettings, client: Client, state: RunState
) -> None:
    attempt = leave_job(relay, slurm, "20240401", slow_s=0)
    wait_for(lambda: attempt.record("end") is not None)
    assert [o.action for o in view(relay, None, one=state).orphans] == [OrphanAction.DONE], "files alone prove it"
    assert settle(relay, client, view(relay, client, one=state))["20240401"].action is OrphanAction.DONE
    assert kind_of(attempt) == "done"
    record = find_result(relay.layout, attempt=attempt)
    assert record is not None
    assert record.run_id == "one"


@pytest.mark.slurm
def test_failed_job_is_closed_as_what_it_was(relay: Workspace, slurm: SlurmSettings, client: Client) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    wait_for(lambda: attempt.record("start") is not None)
    client.scheduler.cancel([attempt.job or ""])
    wait_for(lambda: attempt.record("end") is not None)

    def closed() -> bool:
        settle(relay, client, view(relay, client, one="over"))
        return attempt.is_closed

    wait_for(closed)
    assert kind_of(attempt) == "cancelled"


@pytest.mark.slurm
def test_attempt_that_was_never_submitted_is_given_up_after_its_grace(relay: Workspace, slurm: SlurmSettings) -> None:
    client = connect(slurm.model_copy(update={"grace_s": 600}), data_root=relay.data_root)[0]
    attempt = client.root.attempt(("first", "20240401"), key="ab" * 32, number=1)
    client.root.begin(attempt)
    attempt.write("intent", t=time.time(), host=socket.gethostname(), pid=GONE, run_id="one", resources={})
    assert settle(relay, client, view(relay, client, one="over"))["20240401"].action is OrphanAction.WAITS
    intent = attempt.record("intent") or {}
    attempt.write("intent", **{**intent, "t": time.time() - 660})
    assert settle(relay, client, view(relay, client, one="over"))["20240401"].action is OrphanAction.CLOSED
    assert (kind_of(attempt), attempt.owner()) == ("void", "void")


@pytest.mark.slurm
def test_run_that_nobody_knows_is_judged_by_its_process_on_this_host_alone(
    relay: Workspace, slurm: SlurmSettings, client: Client
) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    assert view(relay, client).orphans[0].action is OrphanAction.LEFT, "this very process"
    intent = attempt.record("intent") or {}
    attempt.write("intent", **{**intent, "pid": GONE})
    assert view(relay, client).orphans[0].action is OrphanAction.KEPT
    note_suspension(attempt)
    assert view(relay, client).orphans[0].action is OrphanAction.REPORTED, "it has left on purpose"
    attempt.path("parked.json").unlink()
    attempt.write("intent", **{**intent, "pid": GONE, "host": "elsewhere"})
    survey = view(relay, client, policy="cancel")
    assert survey.orphans[0].action is OrphanAction.REPORTED
    settle(relay, client, survey)
    assert kind_of(attempt) is None


@pytest.mark.slurm
def test_job_that_another_run_has_taken_over_is_that_runs(
    relay: Workspace, slurm: SlurmSettings, client: Client
) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    adopted = make_request_job(relay, slurm, "20240401", run_id="two", slow_s=280).ensure()
    assert isinstance(adopted, JobHandle)
    assert (adopted.attempt, attempt.run_id) == (attempt, "two")
    (orphan,) = view(relay, client, one="canceled", two="live").orphans
    assert (orphan.action, orphan.run_id) == (OrphanAction.LEFT, "two")
    early = view(relay, client, one="canceled", two="canceled")
    third = make_request_job(relay, slurm, "20240401", run_id="three", slow_s=280).ensure()
    assert isinstance(third, JobHandle)
    assert settle(relay, client, early)["20240401"].action is OrphanAction.LEFT, "taken over after the survey"
    assert kind_of(attempt) is None


@pytest.mark.slurm
def test_step_that_somebody_is_at_is_left_alone(relay: Workspace, slurm: SlurmSettings, client: Client) -> None:
    attempt = leave_job(relay, slurm, "20240401")
    survey = view(relay, client, one="canceled")
    with hold_lock(relay.layout.lock("first", experiment="20240401"), run_id="next"):
        orphan = settle(relay, client, survey)["20240401"]
    assert (orphan.action, kind_of(attempt)) == (OrphanAction.LEFT, None)
    assert "run next" in orphan.reason


# without a scheduler


def test_without_an_answer_nothing_is_closed_or_cancelled(relay: Workspace) -> None:
    root = JobRoot(relay.layout.jobs)
    attempt = root.attempt(("first", "20240401"), key="ab" * 32, number=1)
    root.begin(attempt)
    attempt.write("intent", t=0, host="elsewhere", pid=1, run_id="one", resources={})
    attempt.write("job", job="7")
    attempt.write("end", job="7", rc=1, signal="", restart=0, t=1)
    for state in ("canceled", "over"):
        survey = view(relay, None, policy="cancel", one=state)
        assert (survey.orphans[0].action, bool(survey.trouble)) == (OrphanAction.WAITS, True)
    mute = connect(SlurmSettings(commands="/no/such/folder"), data_root=relay.data_root)[0]
    survey = view(relay, mute, policy="cancel", one="canceled")
    assert survey.trouble
    settle(relay, mute, survey)
    assert kind_of(attempt) is None


def test_attempt_whose_maker_is_still_writing_is_only_told(relay: Workspace) -> None:
    root = JobRoot(relay.layout.jobs)
    root.begin(root.attempt(("first", "20240401"), key="ab" * 32, number=1))
    assert view(relay, None, policy="cancel").orphans[0].action is OrphanAction.REPORTED
