"""Client against commands that answer what the test tells them: one attempt at a time, whatever the answers are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import VOID, JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.errors import RejectedError, UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, Timeouts
from morphseq_dagster.cluster.outcome import JobOutcome
from tests.support.scripted_commands import DBD_DOWN, DOWN, KEY, ScriptedCommands


@pytest.fixture
def client(scheduler: Scheduler, tmp_path: Path) -> Client:
    timeouts = Timeouts(grace_s=0.4, lost_s=0.4, settle_s=0.2, files_s=0.5)
    return Client(scheduler, root=JobRoot(tmp_path / "jobs"), timeouts=timeouts)


SPEC = JobSpec(group=("step", "20240418"), key=KEY, command=("true",))


def never() -> bool:
    return False


# reading


def test_done_submits_nothing(fake: ScriptedCommands, client: Client) -> None:
    assert isinstance(client.ensure(SPEC, done=lambda: True), AlreadyDone)
    assert fake.calls("sbatch") == []


def test_submitted_once_and_found_by_its_record(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", out="12\n")
    first, second = client.ensure(SPEC, done=never), client.ensure(SPEC, done=never)
    assert isinstance(first, JobHandle)
    assert isinstance(second, JobHandle)
    assert (first.job, first.adopted, second.job, second.adopted) == ("12", False, "12", True)
    assert len(fake.calls("sbatch")) == 1


def test_intent_is_on_the_disk_before_sbatch_is_called(fake: ScriptedCommands, client: Client, tmp_path: Path) -> None:
    fake.answer("sbatch", body=f"ls $(dirname $2) > {tmp_path}/there", out="12")
    client.ensure(SPEC, done=never)
    assert (tmp_path / "there").read_text().split() == ["intent.json", "job.sh", "request.json"]


def test_rejected_attempt_is_closed_and_the_next_call_begins_another(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: invalid partition specified: x", code=1)
    for number in (1, 2):
        with pytest.raises(RejectedError):
            client.ensure(SPEC, done=never)
        newest = client.root.attempts(SPEC.group, key=KEY)[-1]
        assert newest.number == number
        assert (newest.record("closed") or {})["kind"] == "rejected"


def test_lost_answer_is_found_by_name_and_not_submitted_again(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    token = client.root.attempts(SPEC.group, key=KEY)[0].token
    fake.answer("squeue", out=f"31|{token}|PENDING|Priority||0|0|\n")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert live.job == "31"
    assert len(fake.calls("sbatch")) == 1


def test_no_answer_never_allows_another_submission(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    fake.answer("squeue", err=DOWN, code=1)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            client.ensure(SPEC, done=never)
        time.sleep(0.3)  # longer than the grace, together
    fake.answer("squeue")
    fake.answer("sacct", err=DBD_DOWN, code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    assert len(fake.calls("sbatch")) == 1
    assert client.root.attempts(SPEC.group, key=KEY)[0].owner() is None


def test_attempt_without_a_job_is_given_up_after_the_grace_and_replaced(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    fake.answer("sbatch", out="12")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    first = client.root.attempts(SPEC.group, key=KEY)[0]
    assert (live.attempt.number, first.owner(), (first.record("closed") or {})["kind"]) == (2, VOID, "void")


def test_attempt_whose_claim_a_job_has_won_is_taken_over_after_the_grace(
    fake: ScriptedCommands, client: Client
) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    attempt = client.root.attempts(SPEC.group, key=KEY)[0]
    (attempt.folder / "claim").symlink_to("77")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert live.job == "77"
    assert len(fake.calls("sbatch")) == 1


def test_attempt_of_another_run_that_ended_is_closed_and_replaced(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", out="12")
    client.ensure(SPEC, done=never, run_id="yesterday")
    token = client.root.attempts(SPEC.group, key=KEY)[0].token
    fake.answer("squeue", out=f"12|{token}|FAILED|NonZeroExitCode|n1|256|0|\n")
    again = client.ensure(SPEC, done=never, run_id="yesterday")
    assert isinstance(again, JobHandle)
    assert again.attempt.number == 1, "a run that goes on is told the end of its own job"
    fake.answer("sbatch", out="13")
    live = client.ensure(SPEC, done=never, run_id="today")
    assert isinstance(live, JobHandle)
    assert (live.attempt.number, live.job) == (2, "13")
    assert (client.root.attempts(SPEC.group, key=KEY)[0].record("closed") or {})["kind"] == "failed"


def test_cancel_before_the_number_is_known_stops_a_job_that_comes_late(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    attempt = client.root.attempts(SPEC.group, key=KEY)[0]
    client.cancel([attempt])
    assert attempt.owner() == VOID
    client.await_cancelled([attempt])
    assert (attempt.record("closed") or {})["kind"] == "cancelled"
    assert fake.calls("scancel") == []


def test_cancel_tells_the_scheduler_all_numbers_in_one_call_and_never_kills(
    fake: ScriptedCommands, client: Client
) -> None:
    lives = []
    for number in range(3):
        fake.answer("sbatch", out=str(20 + number))
        spec = JobSpec(group=("step", f"e{number}"), key=KEY, command=("true",))
        lives.append(client.ensure(spec, done=never))
    client.cancel([live.attempt for live in lives if isinstance(live, JobHandle)])
    assert fake.calls("scancel") == ["20 21 22"]


def test_cancel_that_was_only_wished_is_carried_out_by_whoever_comes_next(
    fake: ScriptedCommands, client: Client
) -> None:
    fake.answer("sbatch", out="12")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    (live.attempt.folder / "claim").symlink_to("12")
    fake.answer("scancel", err="scancel: error: Unable to contact slurm controller", code=1)
    with pytest.raises(UnreachableError):
        client.cancel([live.attempt])
    fake.answer("scancel")
    fake.answer("sbatch", out="13")
    second = client.ensure(SPEC, done=never)
    assert isinstance(second, JobHandle)
    assert second.job == "13"
    assert (live.attempt.record("closed") or {})["kind"] == "cancelled"


def test_reason_of_an_end_is_kept_for_when_the_controller_forgets(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", out="12")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    fake.answer("squeue", out=f"12|{live.attempt.token}|NODE_FAIL|NodeDown|n1|0|0|\n")
    client.observe([live])
    fake.answer("squeue")
    verdict = client.judge(live, done=False, view=client.observe([live])[live.attempt.token])
    assert verdict is not None
    assert (verdict.outcome, verdict.reason) == (JobOutcome.NODE, "NodeDown")


def test_life_that_the_node_refused_is_a_matter_of_the_node_once_its_start_is_not_to_be_seen(
    fake: ScriptedCommands, client: Client
) -> None:
    fake.answer("sbatch", out="12")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    live.attempt.write("start", job="12", node="n1", restart=0, gpus="", t=1.0)
    live.attempt.write("end", job="12", rc=143, signal="TERM", node="n1", restart=0, cpu="", t=2.0)
    fake.answer("squeue", out=f"12|{live.attempt.token}|FAILED|NonZeroExitCode|n1|256|1|\n")
    view = client.observe([live])[live.attempt.token]
    assert client.judge(live, done=False, view=view) is None
    verdict = client.judge(live, done=False, view=view, unclear_s=0.2)
    assert verdict is not None
    assert (verdict.outcome, verdict.node) == (JobOutcome.NODE, "n1")


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_sbatch_that_a_signal_ended_is_no_rejection_and_its_job_is_found(
    fake: ScriptedCommands, client: Client, signal: str
) -> None:
    fake.answer("sbatch", body=f"kill -{signal} $$")
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    attempt = client.root.attempts(SPEC.group, key=KEY)[0]
    assert not attempt.is_closed
    fake.answer("squeue", out=f"31|{attempt.token}|RUNNING|None|n1|0|0|\n")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert (live.job, live.attempt.number) == ("31", 1)


@pytest.mark.parametrize("ending", ["kill -TERM $$", "exit 143"])
def test_scancel_that_a_signal_ended_has_told_nobody(fake: ScriptedCommands, scheduler: Scheduler, ending: str) -> None:
    fake.answer("scancel", body=ending)
    with pytest.raises(UnreachableError):
        scheduler.cancel(["12"])
    fake.answer("scancel", err="scancel: error: Kill job error on job id 12: Invalid job id specified", code=1)
    scheduler.cancel(["12"])


def test_rejection_of_what_a_job_works_on_already_is_not_believed(fake: ScriptedCommands, client: Client) -> None:
    fake.answer("sbatch", body="ln -s 77 $(dirname $2)/claim", err="sbatch: error: odd", code=1)
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert (live.job, live.attempt.is_closed) == ("77", False)
