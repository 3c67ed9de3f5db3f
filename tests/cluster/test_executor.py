"""The cluster place on a real scheduler: equal bytes, errors of the right class, cancelling, taking over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.executor import LogRelay, SlurmExecutor
from morphseq_dagster.cluster.open_jobs import BesideJobs
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Committed, Executor, Report, stay_silent
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.records import Record, read_failure
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError
from morphseq_dagster.testing.chain import TOY, open_toy, run_chain, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE
from tests.support.slurm_bench import touching, wait_for
from tests.support.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"
WORDS = {"A01": "fish", "A02": "fin", "B03": "yolk"}

# A process that runs the first step at the cluster.
CHILD = """
import sys
from pathlib import Path
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.chain import TOY, open_toy
workspace = open_toy(Path(sys.argv[1]))
place = SlurmExecutor(SlurmSettings.model_validate_json(sys.argv[2]), pipeline=TOY)
spec = workspace.pipeline.steps[0]
with lock_step(spec, workspace=workspace, experiment=sys.argv[3], executor=place, run_id=sys.argv[4]) as session:
    assert session.cached is None
    finish(workspace.layout, outcome=session.run())
"""


def make_place(cluster: LocalCluster, transport: str = "local", **more: object) -> SlurmExecutor:
    return SlurmExecutor(cluster.settings(transport, **more), pipeline=TOY)


def run_steps(
    workspace: Workspace, place: Executor, *, count: int = 3, run_id: str = "run", progress: Report = stay_silent
) -> list[Record]:
    records = []
    for spec in workspace.pipeline.steps[:count]:
        with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id=run_id, executor=place) as session:
            if session.cached is None:
                records.append(finish(workspace.layout, outcome=session.run(progress=progress)))
    return records


def published(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.data_root
    kept = [path for path in sorted(root.rglob("*")) if path.is_file() and ".morphseq" not in path.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in kept if not p.name.endswith(".provenance.json")}


def jobs_of(workspace: Workspace) -> list[list[Attempt]]:
    root = JobRoot(workspace.layout.jobs)
    return [root.attempts(key.parts[-3:-1], key=key.name) for key in sorted(workspace.layout.jobs.glob("*/*/*"))]


@pytest.mark.slurm
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_chain_gives_the_same_bytes_as_in_this_process(
    cluster: LocalCluster, workspace: Workspace, tmp_path: Path, transport: str
) -> None:
    other = open_toy(tmp_path / "other")
    for space in (workspace, other):
        write_words(space.layout, EXPERIMENT, words=WORDS)
    run_chain(workspace, EXPERIMENT)
    records = run_steps(other, make_place(cluster, transport))
    assert published(other) == published(workspace)
    assert [record.place for record in records] == ["slurm"] * 3
    assert [len(attempts) for attempts in jobs_of(other)] == [1, 1, 1]
    assert all(attempt.is_closed for attempts in jobs_of(other) for attempt in attempts)
    assert run_steps(other, make_place(cluster, transport)) == [], "nothing changed"


@pytest.mark.slurm
def test_result_tells_what_the_job_used(cluster: LocalCluster, workspace: Workspace) -> None:
    place = make_place(cluster, steps={"letters": {"cpus": 2, "gpus": 1}})
    spec = workspace.pipeline.steps[0]
    with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r", executor=place) as session:
        outcome = session.run()
        finish(workspace.layout, outcome=outcome)
    assert isinstance(outcome, Committed)
    job = outcome.facts
    assert str(job["job"]).isdigit()
    assert (job["attempt"], job["outcome"], job["memory_mb"]) == (1, "done", 600)
    assert job["node"] in ("n1", "n2")
    assert job["gpus"] in ("0", "1")
    assert "queue_s" in job
    assert "run_s" in job
    assert 10 < float(job["max_rss_mb"]) < 600
    assert "cpu_efficiency" in job
    assert Path(str(job["log"])).is_file()


@pytest.mark.slurm
def test_progress_and_words_of_the_job_are_relayed(
    cluster: LocalCluster, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    write_words(workspace.layout, EXPERIMENT, words={**WORDS, "C01": "fail"})
    heard: list[Progress] = []
    run_steps(workspace, make_place(cluster), count=1, progress=heard.append)
    assert [(p.step, p.done, p.total) for p in heard] == [("letters", n, 4) for n in range(1, 5)]
    said = capfd.readouterr().err
    assert "well C01 failed" in said
    assert "submitted (attempt 1" in said


@pytest.mark.slurm
def test_error_of_the_step_comes_back_whole_and_is_tried_once(cluster: LocalCluster, workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words=dict.fromkeys(WORDS, "fail"))
    with pytest.raises(MorphseqError) as here:
        run_steps(workspace, LocalExecutor(TOY_PIPELINE), count=1)
    with pytest.raises(MorphseqError) as there:
        run_steps(workspace, make_place(cluster), count=1)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    assert [len(attempts) for attempts in jobs_of(workspace)] == [1]
    output = workspace.output("letters", experiment=EXPERIMENT)
    failure = read_failure(workspace.layout, primary=output)
    assert failure is not None


@pytest.mark.slurm
def test_killed_job_is_permanent_and_told_with_the_schedulers_words(
    cluster: LocalCluster, workspace: Workspace
) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "kill"})
    with pytest.raises(PermanentError, match=r"killed \(FAILED, NonZeroExitCode.*on n[12]; last lines"):
        run_steps(workspace, make_place(cluster), count=1)
    failure = read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT))
    assert failure is not None
    assert "killed" in failure.error.found


@pytest.mark.slurm
def test_rejected_request_is_permanent_and_leaves_no_job(cluster: LocalCluster, workspace: Workspace) -> None:
    with pytest.raises(PermanentError, match="invalid partition"):
        run_steps(workspace, make_place(cluster, resources={"partition": "nowhere"}), count=1)


@pytest.mark.slurm
def test_python_that_the_nodes_do_not_have_is_named_as_configuration(
    cluster: LocalCluster, workspace: Workspace
) -> None:
    with pytest.raises(PermanentError, match=r"config.*places\.slurm"):
        run_steps(workspace, make_place(cluster, python="/no/such/python"), count=1)


@pytest.mark.slurm
def test_job_over_its_memory_gets_twice_as_much_once(cluster: LocalCluster, workspace: Workspace) -> None:
    slow_words(workspace, seconds=10)
    with pytest.raises(TransientError, match="oom"):
        run_steps(workspace, make_place(cluster, resources={"memory": "2M", "time": 5}), count=1)
    (attempts,) = jobs_of(workspace)
    assert [(a.record("intent") or {})["resources"]["memory"] for a in attempts] == ["2M", "4M"]


def start_child(workspace: Workspace, cluster: LocalCluster, run_id: str = "child") -> subprocess.Popen[bytes]:
    settings = cluster.settings().model_dump_json()
    command = [sys.executable, "-c", CHILD, str(workspace.data_root), settings, EXPERIMENT, run_id]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def slow_words(workspace: Workspace, *, seconds: float) -> None:
    set_recipe(workspace, f"slow_s = {seconds}")


def set_recipe(workspace: Workspace, line: str) -> None:
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f"[letters]\n{line}\n")


def running(workspace: Workspace) -> bool:
    return any(a.record("start") is not None and a.job for attempts in jobs_of(workspace) for a in attempts)


@pytest.mark.slurm
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_wait_cancels_the_job_and_frees_the_step(
    cluster: LocalCluster, workspace: Workspace, sent: signal.Signals
) -> None:
    slow_words(workspace, seconds=280)
    child = start_child(workspace, cluster)
    wait_for(lambda: running(workspace))
    ((attempt,),) = jobs_of(workspace)
    child.send_signal(sent)
    child.communicate(timeout=180)
    assert child.returncode != 0
    assert (attempt.record("closed") or {})["kind"] == "cancelled"
    assert attempt.job not in cluster.ask("squeue", "-h", "-o", "%i").split()
    assert not workspace.layout.lock("letters", experiment=EXPERIMENT).exists()
    assert read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT)) is not None


@pytest.mark.slurm
def test_job_of_a_killed_wait_is_taken_over(cluster: LocalCluster, workspace: Workspace, tmp_path: Path) -> None:
    set_recipe(workspace, f'hold = "{tmp_path}/go"')
    child = start_child(workspace, cluster)
    wait_for(lambda: running(workspace))
    child.kill()
    child.communicate()
    with pytest.raises(TransientError, match="cluster job at work"):
        run_steps(workspace, BesideJobs(LocalExecutor(TOY_PIPELINE)), count=1)
    ((attempt,),) = jobs_of(workspace)
    with touching(tmp_path / "go", when=lambda: attempt.record("adopted") is not None):
        (record,) = run_steps(workspace, make_place(cluster), count=1, run_id="second")
    assert jobs_of(workspace) == [[attempt]]
    assert record.run_id == "child", "the first run's job did the work"
    assert (attempt.record("closed") or {})["kind"] == "done"


@pytest.mark.slurm
def test_job_of_a_killed_wait_for_what_is_no_longer_asked_is_cancelled(
    cluster: LocalCluster, workspace: Workspace
) -> None:
    slow_words(workspace, seconds=280)
    child = start_child(workspace, cluster)
    wait_for(lambda: running(workspace))
    child.kill()
    child.communicate()
    slow_words(workspace, seconds=0)
    (record,) = run_steps(workspace, make_place(cluster), count=1, run_id="second")
    assert record.run_id == "second"
    kinds = sorted((a.record("closed") or {})["kind"] for attempts in jobs_of(workspace) for a in attempts)
    assert kinds == ["cancelled", "done"]


@pytest.mark.slurm
def test_forced_step_is_computed_again_by_a_job_of_its_own(cluster: LocalCluster, workspace: Workspace) -> None:
    place, spec = make_place(cluster), workspace.pipeline.steps[0]
    run_steps(workspace, place, count=1)
    with lock_step(
        spec, workspace=workspace, experiment=EXPERIMENT, run_id="again", executor=place, force=True
    ) as session:
        record = finish(workspace.layout, outcome=session.run())
    assert record.run_id == "again"
    assert [len(attempts) for attempts in jobs_of(workspace)] == [1, 1]


# without a scheduler


def test_log_is_passed_on_once_with_any_bytes_and_not_faster_than_people_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    relay = LogRelay(path, progress=stay_silent)
    relay.pump()
    path.write_bytes(b"one\n\xff\xfe bytes\nhal")
    relay.pump()
    with path.open("ab") as handle:
        handle.write(b"f\n" + b"".join(b"line %d\n" % n for n in range(5000)) + b"rest")
    relay.pump()
    relay.pump(last=True)
    relay.pump(last=True)
    said = capfd.readouterr().err
    assert said.count("one\n") == said.count("line 4999\n") == said.count("rest\n") == 1
    assert "lines left out here, all are in" in said
    assert len(said.splitlines()) < 300
