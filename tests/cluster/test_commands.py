"""Commands against programs on PATH that answer as a Slurm did: texts, hangs, half lines, no accounting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from morphseq_dagster.cluster.commands import Row, Scheduler, Sighting, parse_clock_s
from morphseq_dagster.cluster.errors import RejectedError, UnreachableError
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.errors import PermanentError
from tests.support.scripted_commands import DBD_DOWN, DOWN, FIELDS, ScriptedCommands

# reading


@pytest.mark.parametrize("out", ["12", "12\n", "12;cluster2\n", "sbatch: a word of the site's plugin\n12\n"])
def test_number_is_read(fake: ScriptedCommands, scheduler: Scheduler, out: str) -> None:
    fake.answer("sbatch", out=out)
    assert scheduler.submit("/a/job.sh").job == "12"


@pytest.mark.parametrize("out", ["", "1x", "Submitted batch job", "12;", "\n\n"])
def test_answer_without_a_number_is_no_answer_but_perhaps_a_job(
    fake: ScriptedCommands, scheduler: Scheduler, out: str
) -> None:
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
def test_lost_controller_is_no_rejection(fake: ScriptedCommands, scheduler: Scheduler, err: str) -> None:
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
def test_rejection_carries_the_schedulers_words(fake: ScriptedCommands, scheduler: Scheduler, err: str) -> None:
    fake.answer("sbatch", err=err, code=1)
    with pytest.raises(RejectedError, match="Batch job submission failed"):
        scheduler.submit("/a/job.sh")


def test_three_answers_of_the_queue_are_told_apart(fake: ScriptedCommands, scheduler: Scheduler) -> None:
    fake.answer("squeue", err=DOWN, code=1)
    with pytest.raises(UnreachableError):
        scheduler.queue(jobs=["7"])
    fake.answer("squeue")
    assert scheduler.queue(jobs=["7", "8"]).of_job("7", name="x") is Sighting.EMPTY
    fake.answer("squeue", out="8|y|RUNNING|None|n1|0|0|\n")
    assert scheduler.queue(jobs=["7", "8"]).of_job("7", name="x") is Sighting.NOT_FOUND
    fake.answer("squeue", err="slurm_load_jobs error: Invalid job id specified", code=1)
    assert scheduler.queue(jobs=["7"]).of_job("7", name="x") is Sighting.EMPTY


def test_row_of_the_queue_is_read(fake: ScriptedCommands, scheduler: Scheduler) -> None:
    fake.answer("squeue", out="7|x|FAILED|NonZeroExitCode|n1|35584|2|\n8|y|PENDING|Resources||0|0|\n")
    reply = scheduler.queue(jobs=["7", "8"])
    assert reply.of_job("7", name="x") == Row("7", "x", "FAILED", "NonZeroExitCode", "n1", 139, 0, 2)
    assert reply.of_job("8", name="y") == Row("8", "y", "PENDING", "Resources", "", 0, 0, 0)


def test_number_of_another_name_is_another_job(fake: ScriptedCommands, scheduler: Scheduler) -> None:
    fake.answer("squeue", out="7|somebody|RUNNING|None|n1|0|0|\n")
    assert scheduler.queue(jobs=["7"]).of_job("7", name="ours") is Sighting.NOT_FOUND


@pytest.mark.parametrize("out", ["7|x|RUNN", "7|x|RUNNING|None|n1|0|0", "|x|RUNNING|None|n1|0|0|", "garbage", "7"])
def test_half_a_line_is_no_row(fake: ScriptedCommands, scheduler: Scheduler, out: str) -> None:
    fake.answer("squeue", out=out)
    assert scheduler.queue(jobs=["7"]).rows == {}


def test_hanging_command_is_no_answer_within_its_time(fake: ScriptedCommands, tmp_path: Path) -> None:
    fake.answer("squeue", body="sleep 60 & wait")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="none within"):
        Scheduler(LocalTransport(), timeout_s=0.3).queue(jobs=["7"])
    assert time.monotonic() - began < 20


def test_missing_command_is_no_outage(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="squeue"):
        scheduler.queue(jobs=["7"])


def test_all_jobs_are_asked_for_in_one_call(fake: ScriptedCommands, scheduler: Scheduler) -> None:
    scheduler.queue(jobs=[str(number) for number in range(1, 201)])
    assert len(fake.calls("squeue")) == 1
    assert scheduler.calls["squeue"] == 1


def test_unknown_field_of_accounting_is_not_asked_for_and_fields_are_asked_once(
    fake: ScriptedCommands, scheduler: Scheduler
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


def test_database_away_is_no_answer_and_no_accounting_is_none(fake: ScriptedCommands, scheduler: Scheduler) -> None:
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


def test_state_with_a_word_behind_it_is_read(fake: ScriptedCommands, scheduler: Scheduler) -> None:
    fake.accounts("7|x|CANCELLED by 0|0:0|n1\n")
    reply = scheduler.account(jobs=["7"])
    assert reply is not None
    row = reply.of_job("7", name="x")
    assert isinstance(row, Row)
    assert row.state == "CANCELLED"


def test_variables_that_steer_the_commands_do_not_reach_them(
    fake: ScriptedCommands, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
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
