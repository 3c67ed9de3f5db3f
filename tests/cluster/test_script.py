"""The job script, run by bash without a scheduler: claim, leaving, signals, records, environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.script import write_script
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Environment, Resources
from tests.support.slurm_bench import wait_for

KEY = "ab" * 32


class Node:
    """A node that runs one attempt's script as often as asked."""

    def __init__(self, folder: Path, body: str, **more: object) -> None:
        (folder / "body.sh").write_text(body)
        self.spec = JobSpec(group=("step", "20240418"), key=KEY, command=("bash", str(folder / "body.sh")), **more)  # type: ignore[arg-type]
        root = JobRoot(folder / "jobs")
        self.attempt = root.attempt(self.spec.group, key=KEY, number=1)
        root.begin(self.attempt)
        self.attempt.path("job.sh").write_text(write_script(self.spec, attempt=self.attempt))

    def start(self, job: str = "1", **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NAME": self.attempt.token, "SLURMD_NODENAME": "n1"}
        return subprocess.Popen(
            ["bash", str(self.attempt.path("job.sh"))],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, job: str = "1", **variables: str) -> tuple[int, str]:
        child = self.start(job, **variables)
        out, _ = child.communicate(timeout=180)
        return child.returncode, out


def record(attempt: Attempt, name: str) -> dict[str, object]:
    found = attempt.record(name)
    assert found is not None, name
    return found


def test_script_asks_for_what_was_named_and_nothing_else(tmp_path: Path) -> None:
    resources = Resources(
        partition="gpu", account="lab", qos="long", cpus=4, memory="8G", gpus="a100:2", time="2:00:00", exclude="n3"
    )
    node = Node(tmp_path, "", resources=resources, warn_s=60, requeue=False)
    text = node.attempt.path("job.sh").read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert sorted(options) == sorted(
        [
            f"--job-name={node.attempt.token}",
            f"--output={node.attempt.folder}/log.txt",
            "--open-mode=append",
            "--export=ALL",
            "--dependency=singleton",
            "--nodes=1",
            "--ntasks=1",
            "--cpus-per-task=4",
            "--no-requeue",
            "--partition=gpu",
            "--account=lab",
            "--qos=long",
            "--mem=8G",
            "--gres=gpu:a100:2",
            "--time=2:00:00",
            "--exclude=n3",
            "--signal=B:USR1@60",
        ]
    )


@pytest.mark.parametrize(("time_limit", "warned"), [("1", "15"), ("2:00:00", "120"), (None, None)])
def test_warning_is_never_longer_than_a_quarter_of_the_limit(
    tmp_path: Path, time_limit: str | None, warned: str | None
) -> None:
    node = Node(tmp_path, "", resources=Resources(time=time_limit), warn_s=120)
    text = node.attempt.path("job.sh").read_text()
    assert (f"USR1@{warned}\n" in text) if warned else ("USR1@" not in text)


def test_folder_that_a_script_cannot_name_is_refused(tmp_path: Path) -> None:
    root = JobRoot(tmp_path / "a b")
    spec = JobSpec(group=("step", "x"), key=KEY, command=("true",))
    with pytest.raises(PermanentError, match="plain path"):
        write_script(spec, attempt=root.attempt(spec.group, key=KEY, number=1))


def test_job_claims_works_and_leaves_its_records(tmp_path: Path) -> None:
    node = Node(tmp_path, "echo said; exit 7")
    code, out = node.run("41", CUDA_VISIBLE_DEVICES="0,1")
    attempt = node.attempt
    assert (code, out) == (7, "said\n")
    assert attempt.owner() == "41"
    start, end = record(attempt, "start"), record(attempt, "end")
    assert (start["job"], start["node"], start["gpus"], start["restart"]) == ("41", "n1", "0,1", 0)
    assert (end["job"], end["rc"], end["signal"]) == ("41", 7, "")
    assert float(str(end["t"])) >= float(str(start["t"]))
    assert [path.name for path in attempt.inbox.iterdir()] == [attempt.token]
    assert sorted(path.name for path in attempt.folder.iterdir()) == ["claim", "end.json", "job.sh", "start.json"]


def test_second_job_leaves_without_working_or_recording(tmp_path: Path) -> None:
    node = Node(tmp_path, f"echo x >> {tmp_path}/ran")
    assert node.run("1")[0] == 0
    before = node.attempt.path("end.json").read_bytes()
    code, out = node.run("2")
    assert code == 0
    assert "belongs to 1" in out
    assert (tmp_path / "ran").read_text() == "x\n"
    assert node.attempt.path("end.json").read_bytes() == before


def test_job_leaves_a_given_up_attempt(tmp_path: Path) -> None:
    node = Node(tmp_path, f"touch {tmp_path}/ran")
    assert node.attempt.give_up()
    assert node.run()[0] == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["closed", "cancel"])
def test_job_started_again_leaves_when_the_attempt_was_settled_meanwhile(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, f"echo x >> {tmp_path}/ran")
    node.run("1")
    node.attempt.write(name, kind="node")
    assert node.run("1", SLURM_RESTART_COUNT="1")[0] == 0
    assert (tmp_path / "ran").read_text() == "x\n"


def test_job_started_again_works_and_counts_its_lives(tmp_path: Path) -> None:
    node = Node(tmp_path, f"echo x >> {tmp_path}/ran")
    node.run("1")
    node.run("1", SLURM_RESTART_COUNT="1")
    assert (tmp_path / "ran").read_text() == "x\nx\n"
    assert record(node.attempt, "end")["restart"] == 1


def test_racing_jobs_execute_once(tmp_path: Path) -> None:
    node = Node(tmp_path, f"echo x >> {tmp_path}/ran; sleep 0.2")
    children = [node.start(str(number)) for number in range(1, 13)]
    for child in children:
        child.communicate(timeout=180)
    assert (tmp_path / "ran").read_text() == "x\n"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_signal_reaches_the_command_and_the_end_record(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    node = Node(tmp_path, f"touch {tmp_path}/on; exec sleep 300")
    child = node.start()
    wait_for((tmp_path / "on").exists)
    child.send_signal(sent)
    child.communicate(timeout=180)
    end = record(node.attempt, "end")
    assert (end["rc"], end["signal"]) == (code, sent.name.removeprefix("SIG"))


def test_command_that_heeds_the_warning_ends_in_its_own_way(tmp_path: Path) -> None:
    node = Node(tmp_path, f"trap 'kill $!; exit 3' USR1; touch {tmp_path}/on; sleep 300 & wait")
    child = node.start()
    wait_for((tmp_path / "on").exists)
    child.send_signal(signal.SIGUSR1)
    child.communicate(timeout=180)
    assert (record(node.attempt, "end")["rc"], record(node.attempt, "end")["signal"]) == (3, "USR1")


def test_submitters_environment_does_not_reach_the_command(tmp_path: Path) -> None:
    environment = Environment(variables={"MORPHSEQ_THREADS": "2"})
    node = Node(tmp_path, "env", environment=environment)
    _, out = node.run(SECRET="x", PYTHONPATH="/elsewhere", SLURM_CPUS_PER_TASK="3", CUDA_VISIBLE_DEVICES="1")
    seen = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    assert "SECRET" not in seen
    assert "PYTHONPATH" not in seen
    assert seen["MORPHSEQ_THREADS"] == "2"
    assert seen["OMP_NUM_THREADS"] == "3"
    assert (seen["SLURM_JOB_ID"], seen["CUDA_VISIBLE_DEVICES"]) == ("1", "1")


def test_preamble_is_read_first_and_its_absence_is_told(tmp_path: Path) -> None:
    preamble = tmp_path / "modules.sh"
    preamble.write_text("export LD_LIBRARY_PATH=/opt/lib\n")
    node = Node(tmp_path, "echo $LD_LIBRARY_PATH", environment=Environment(preamble=str(preamble)))
    assert node.run()[1] == "/opt/lib\n"
    (tmp_path / "other").mkdir()
    lost = Node(tmp_path / "other", "echo ran", environment=Environment(preamble="/nowhere/modules.sh"))
    code, out = lost.run()
    assert code == 126
    assert "ran\n" not in out
    assert record(lost.attempt, "end")["rc"] == code


def test_attempts_folder_is_filled_into_the_command(tmp_path: Path) -> None:
    node = Node(tmp_path, "")
    spec = JobSpec(group=("step", "x"), key=KEY, command=("cat", "{attempt}/request.json"), request=b'{"a": 1}')
    attempt = JobRoot(tmp_path / "jobs").attempt(spec.group, key=KEY, number=1)
    assert f"{attempt.folder}/request.json" in write_script(spec, attempt=attempt)
    assert "{attempt}" not in node.attempt.path("job.sh").read_text()


def test_records_are_json_with_hostile_values(tmp_path: Path) -> None:
    node = Node(tmp_path, "true")
    node.run(CUDA_VISIBLE_DEVICES="GPU-1234,MIG-5/6")
    assert json.loads(node.attempt.path("start.json").read_bytes())["gpus"] == "GPU-1234,MIG-5/6"
