"""Commands and client against programs on PATH that answer as a Slurm did: texts, hangs, half lines, no accounting."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import VOID, JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Row, Scheduler, Sighting, parse_clock_s
from morphseq_dagster.cluster.errors import RejectedError, UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, Timeouts
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.errors import PermanentError

KEY = "ab" * 32
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
DBD_DOWN = "sacct: error: failed to open persistent connection to host:localhost:6819: Connection refused"
FIELDS = "JobIDRaw JobName State ExitCode NodeList MaxRSS"


class Cluster:
    """Programs on PATH with a text for either stream and a code, and a list of their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "sacct", "scancel"):
            self.answer(name)
        self.answer("sacct", body=f'case "$*" in *-e*) echo {FIELDS};; esac')

    def answer(self, name: str, *, out: str = "", err: str = "", code: int = 0, body: str = "") -> None:
        path = self.folder / name
        (self.folder / f"{name}.out").write_text(out)
        (self.folder / f"{name}.err").write_text(err)
        path.write_text(
            f'#!/bin/bash\ncat <<<"$*" >> {self.folder}/{name}.calls\n{body}\n'
            f"cat {self.folder}/{name}.err >&2\ncat {self.folder}/{name}.out\nexit {code}\n"
        )
        path.chmod(0o755)

    def accounts(self, out: str) -> None:
        self.answer("sacct", body=f'case "$*" in *-e*) echo {FIELDS}; exit 0;; *-X*) exit 0;; esac', out=out)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Cluster(folder)


@pytest.fixture
def scheduler(fake: Cluster) -> Scheduler:
    del fake
    return Scheduler(LocalTransport(), timeout_s=60)


@pytest.fixture
def client(scheduler: Scheduler, tmp_path: Path) -> Client:
    timeouts = Timeouts(grace_s=0.4, lost_s=0.4, settle_s=0.2, files_s=0.5)
    return Client(scheduler, root=JobRoot(tmp_path / "jobs"), timeouts=timeouts)


SPEC = JobSpec(group=("step", "20240418"), key=KEY, command=("true",))


def never() -> bool:
    return False


# reading


@pytest.mark.parametrize("out", ["12", "12\n", "12;cluster2\n", "sbatch: a word of the site's plugin\n12\n"])
def test_number_is_read(fake: Cluster, scheduler: Scheduler, out: str) -> None:
    fake.answer("sbatch", out=out)
    assert scheduler.submit("/a/job.sh").job == "12"


@pytest.mark.parametrize("out", ["", "1x", "Submitted batch job", "12;", "\n\n"])
def test_answer_without_a_number_is_no_answer_but_perhaps_a_job(fake: Cluster, scheduler: Scheduler, out: str) -> None:
    fake.answer("sbatch", out=out)
    with pytest.raises(UnreachableError):
        scheduler.submit("/a/job.sh")


@pytest.mark.parametrize(
    "err",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
    ],
)
def test_lost_controller_is_no_rejection(fake: Cluster, scheduler: Scheduler, err: str) -> None:
    fake.answer("sbatch", err=err, code=1)
    with pytest.raises(UnreachableError):
        scheduler.submit("/a/job.sh")


@pytest.mark.parametrize(
    "err",
    [
        "sbatch: error: invalid partition: x\nsbatch: error: Batch job submission failed: Invalid partition name",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    ],
)
def test_rejection_carries_the_schedulers_words(fake: Cluster, scheduler: Scheduler, err: str) -> None:
    fake.answer("sbatch", err=err, code=1)
    with pytest.raises(RejectedError, match="Batch job submission failed"):
        scheduler.submit("/a/job.sh")


def test_three_answers_of_the_queue_are_told_apart(fake: Cluster, scheduler: Scheduler) -> None:
    fake.answer("squeue", err=DOWN, code=1)
    with pytest.raises(UnreachableError):
        scheduler.queue(jobs=["7"])
    fake.answer("squeue")
    assert scheduler.queue(jobs=["7", "8"]).of_job("7", name="x") is Sighting.EMPTY
    fake.answer("squeue", out="8|y|RUNNING|None|n1|0|0|\n")
    assert scheduler.queue(jobs=["7", "8"]).of_job("7", name="x") is Sighting.NOT_FOUND
    fake.answer("squeue", err="slurm_load_jobs error: Invalid job id specified", code=1)
    assert scheduler.queue(jobs=["7"]).of_job("7", name="x") is Sighting.EMPTY


def test_row_of_the_queue_is_read(fake: Cluster, scheduler: Scheduler) -> None:
    fake.answer("squeue", out="7|x|FAILED|NonZeroExitCode|n1|35584|2|\n8|y|PENDING|Resources||0|0|\n")
    reply = scheduler.queue(jobs=["7", "8"])
    assert reply.of_job("7", name="x") == Row("7", "x", "FAILED", "NonZeroExitCode", "n1", 139, 0, 2)
    assert reply.of_job("8", name="y") == Row("8", "y", "PENDING", "Resources", "", 0, 0, 0)


def test_number_of_another_name_is_another_job(fake: Cluster, scheduler: Scheduler) -> None:
    fake.answer("squeue", out="7|somebody|RUNNING|None|n1|0|0|\n")
    assert scheduler.queue(jobs=["7"]).of_job("7", name="ours") is Sighting.NOT_FOUND


@pytest.mark.parametrize("out", ["7|x|RUNN", "7|x|RUNNING|None|n1|0|0", "|x|RUNNING|None|n1|0|0|", "garbage", "7"])
def test_half_a_line_is_no_row(fake: Cluster, scheduler: Scheduler, out: str) -> None:
    fake.answer("squeue", out=out)
    assert scheduler.queue(jobs=["7"]).rows == {}


def test_hanging_command_is_no_answer_within_its_time(fake: Cluster, tmp_path: Path) -> None:
    fake.answer("squeue", body="sleep 60 & wait")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="none within"):
        Scheduler(LocalTransport(), timeout_s=0.3).queue(jobs=["7"])
    assert time.monotonic() - began < 20


def test_missing_command_is_no_outage(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="squeue"):
        scheduler.queue(jobs=["7"])


def test_all_jobs_are_asked_for_in_one_call(fake: Cluster, scheduler: Scheduler) -> None:
    scheduler.queue(jobs=[str(number) for number in range(1, 201)])
    assert len(fake.calls("squeue")) == 1
    assert scheduler.calls["squeue"] == 1


def test_unknown_field_of_accounting_is_not_asked_for_and_fields_are_asked_once(
    fake: Cluster, scheduler: Scheduler
) -> None:
    fake.accounts("7|x|COMPLETED|0:0|n1\n7.batch|batch|COMPLETED|0:0|n1\n")
    for _ in range(3):
        reply = scheduler.account(jobs=["7"])
        assert reply is not None
        assert reply.of_job("7", name="x") == Row("7", "x", "COMPLETED", None, "n1", 0, 0, None)
    asked = fake.calls("sacct")
    assert sum("-e" in call.split() for call in asked) == 1
    assert not any("Restarts" in call for call in asked)
    assert all("-S now-" in call for call in asked if "-j" in call)


def test_database_away_is_no_answer_and_no_accounting_is_none(fake: Cluster, scheduler: Scheduler) -> None:
    fake.answer("sacct", body=f'case "$*" in *-e*) echo {FIELDS}; exit 0;; esac', err=DBD_DOWN, code=1)
    with pytest.raises(UnreachableError):
        scheduler.account(jobs=["7"])
    fake.answer(
        "sacct",
        body=f'case "$*" in *-e*) echo {FIELDS}; exit 0;; esac',
        err="Slurm accounting storage is disabled",
        code=1,
    )
    assert scheduler.account(jobs=["7"]) is None
    assert scheduler.has_accounting is False
    before = len(fake.calls("sacct"))
    assert scheduler.account(jobs=["7"]) is None
    assert len(fake.calls("sacct")) == before


def test_state_with_a_word_behind_it_is_read(fake: Cluster, scheduler: Scheduler) -> None:
    fake.accounts("7|x|CANCELLED by 0|0:0|n1\n")
    reply = scheduler.account(jobs=["7"])
    assert reply is not None
    row = reply.of_job("7", name="x")
    assert isinstance(row, Row)
    assert row.state == "CANCELLED"


def test_variables_that_steer_the_commands_do_not_reach_them(
    fake: Cluster, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    fake.answer("squeue", body=f"env > {fake.folder}/seen")
    scheduler.queue(jobs=["7"])
    seen = (fake.folder / "seen").read_text()
    assert not any(name in seen for name in ("SBATCH_PARTITION", "SQUEUE_FORMAT", "SLURM_JOB_ID"))


@pytest.mark.parametrize("job", ["7;id", "", "7 8", "$(id)"])
def test_question_with_an_unsafe_name_is_refused(scheduler: Scheduler, job: str) -> None:
    with pytest.raises(PermanentError):
        scheduler.cancel([job])


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:01.250", 1.25), ("01:00:00", 3600), ("1-00:00:01", 86401), ("", None), ("INVALID", None)]
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse_clock_s(text) == seconds


# the protocol, step by step


def test_done_submits_nothing(fake: Cluster, client: Client) -> None:
    assert isinstance(client.ensure(SPEC, done=lambda: True), AlreadyDone)
    assert fake.calls("sbatch") == []


def test_submitted_once_and_found_by_its_record(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", out="12\n")
    first, second = client.ensure(SPEC, done=never), client.ensure(SPEC, done=never)
    assert isinstance(first, JobHandle)
    assert isinstance(second, JobHandle)
    assert (first.job, first.adopted, second.job, second.adopted) == ("12", False, "12", True)
    assert len(fake.calls("sbatch")) == 1


def test_intent_is_on_the_disk_before_sbatch_is_called(fake: Cluster, client: Client, tmp_path: Path) -> None:
    fake.answer("sbatch", body=f"ls $(dirname $2) > {tmp_path}/there", out="12")
    client.ensure(SPEC, done=never)
    assert (tmp_path / "there").read_text().split() == ["intent.json", "job.sh", "request.json"]


def test_rejected_attempt_is_closed_and_the_next_call_begins_another(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: invalid partition specified: x", code=1)
    for number in (1, 2):
        with pytest.raises(RejectedError):
            client.ensure(SPEC, done=never)
        newest = client.root.attempts(SPEC.group, key=KEY)[-1]
        assert newest.number == number
        assert (newest.record("closed") or {})["kind"] == "rejected"


def test_lost_answer_is_found_by_name_and_not_submitted_again(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    token = client.root.attempts(SPEC.group, key=KEY)[0].token
    fake.answer("squeue", out=f"31|{token}|PENDING|Priority||0|0|\n")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert live.job == "31"
    assert len(fake.calls("sbatch")) == 1


def test_no_answer_never_allows_another_submission(fake: Cluster, client: Client) -> None:
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


def test_attempt_without_a_job_is_given_up_after_the_grace_and_replaced(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    fake.answer("sbatch", out="12")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    first = client.root.attempts(SPEC.group, key=KEY)[0]
    assert (live.attempt.number, first.owner(), (first.record("closed") or {})["kind"]) == (2, VOID, "void")


def test_attempt_whose_claim_a_job_has_won_is_taken_over_after_the_grace(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    attempt = client.root.attempts(SPEC.group, key=KEY)[0]
    (attempt.folder / "claim").symlink_to("77")
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert live.job == "77"
    assert len(fake.calls("sbatch")) == 1


def test_attempt_of_another_run_that_ended_is_closed_and_replaced(fake: Cluster, client: Client) -> None:
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


def test_cancel_before_the_number_is_known_stops_a_job_that_comes_late(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(UnreachableError):
        client.ensure(SPEC, done=never)
    attempt = client.root.attempts(SPEC.group, key=KEY)[0]
    client.cancel([attempt])
    assert attempt.owner() == VOID
    client.await_cancelled([attempt])
    assert (attempt.record("closed") or {})["kind"] == "cancelled"
    assert fake.calls("scancel") == []


def test_cancel_tells_the_scheduler_all_numbers_in_one_call_and_never_kills(fake: Cluster, client: Client) -> None:
    lives = []
    for number in range(3):
        fake.answer("sbatch", out=str(20 + number))
        spec = JobSpec(group=("step", f"e{number}"), key=KEY, command=("true",))
        lives.append(client.ensure(spec, done=never))
    client.cancel([live.attempt for live in lives if isinstance(live, JobHandle)])
    assert fake.calls("scancel") == ["20 21 22"]


def test_cancel_that_was_only_wished_is_carried_out_by_whoever_comes_next(fake: Cluster, client: Client) -> None:
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


def test_reason_of_an_end_is_kept_for_when_the_controller_forgets(fake: Cluster, client: Client) -> None:
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
    fake: Cluster, client: Client
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
    fake: Cluster, client: Client, signal: str
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
def test_scancel_that_a_signal_ended_has_told_nobody(fake: Cluster, scheduler: Scheduler, ending: str) -> None:
    fake.answer("scancel", body=ending)
    with pytest.raises(UnreachableError):
        scheduler.cancel(["12"])
    fake.answer("scancel", err="scancel: error: Kill job error on job id 12: Invalid job id specified", code=1)
    scheduler.cancel(["12"])


def test_rejection_of_what_a_job_works_on_already_is_not_believed(fake: Cluster, client: Client) -> None:
    fake.answer("sbatch", body="ln -s 77 $(dirname $2)/claim", err="sbatch: error: odd", code=1)
    live = client.ensure(SPEC, done=never)
    assert isinstance(live, JobHandle)
    assert (live.job, live.attempt.is_closed) == ("77", False)
