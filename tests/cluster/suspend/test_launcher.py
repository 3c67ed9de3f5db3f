"""The launcher's answers to Dagster's daemon, by the states on the disk; with a real scheduler where one is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher.base import LaunchRunContext, ResumeRunContext, WorkerStatus

from morphseq_dagster.cli.dead_runs import find_dead_runs
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.executor import SlurmExecutor, SuspendedRun
from morphseq_dagster.cluster.suspend.launcher import SuspendingRunLauncher
from morphseq_dagster.cluster.suspend.monitor import FRESH_S
from morphseq_dagster.cluster.suspend.run_queue import SuspendingRunCoordinator
from morphseq_dagster.cluster.suspend.state import AwaitedJob, Site, WorkerState
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.locked_step import lock_step
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from tests.support.installation import suspending_settings
from tests.support.slurm_gate import Gate

GONE = 2**22 + 1  # above the largest number of a process


@dg.job
def empty() -> None:
    pass


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=suspending_settings(max_workers=2)) as found:
        yield found


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> SuspendingRunLauncher:
    assert isinstance(instance.run_launcher, SuspendingRunLauncher)
    return instance.run_launcher


def make_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> dg.DagsterRun:
    return instance.create_run_for_job(empty, status=status)


def leave_state(launcher: SuspendingRunLauncher, run: dg.DagsterRun, **values: object) -> WorkerState:
    state = WorkerState.model_validate({"run_id": run.run_id} | values)
    with launcher.states.hold(run.run_id):
        launcher.states.write(state)
    return state


def leave_suspended(
    launcher: SuspendingRunLauncher, run: dg.DagsterRun, *, suspended: SuspendedRun, gate: Gate
) -> WorkerState:
    attempt, request = suspended.handle.attempt, suspended.request
    job = AwaitedJob(
        step=request.step,
        experiment=request.experiment,
        key=attempt.folder.parent.name,
        number=attempt.number,
        job=suspended.handle.job,
        folder=str(attempt.folder),
        since=time.time(),
    )
    return leave_state(launcher, run, site=Site(data_root=Path(request.data_root), slurm=gate.settings()), parked=job)


def test_run_of_another_kind_is_left_alone(instance: dg.DagsterInstance, launcher: SuspendingRunLauncher) -> None:
    run = make_run(instance)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert not launcher.terminate(run.run_id)


def test_process_that_is_gone_is_replaced_a_few_times_and_then_its_run_fails(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher
) -> None:
    run = make_run(instance)
    leave_state(launcher, run)
    with launcher.states.hold(run.run_id):
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND
    launcher.states.log(run.run_id).write_text("ImportError: no module named fish\n")
    leave_state(launcher, run, crashes=3)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None
    assert failed.status is dg.DagsterRunStatus.FAILURE
    assert any("no module named fish" in entry.message for entry in instance.all_logs(run.run_id))


def test_processes_that_are_gone_are_replaced_where_there_is_room(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher
) -> None:
    first, second, gone = (make_run(instance) for _ in range(3))
    leave_state(launcher, gone)
    with launcher.states.hold(first.run_id), launcher.states.hold(second.run_id):
        health = launcher.check_run_worker_health(gone)
    assert (health.status, "turn" in str(health.msg)) == (WorkerStatus.RUNNING, True)


def test_doctor_spares_a_run_that_waits_without_a_process(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher
) -> None:
    waiting, dead = make_run(instance), make_run(instance)
    for run in (waiting, dead):
        instance.report_engine_event("Started", run, dg._core.events.EngineEventData.in_process(GONE))
    leave_state(launcher, waiting)
    assert [run.run_id for run in find_dead_runs(instance)] == [dead.run_id]


def test_run_is_not_begun_where_nobody_would_resume_it(tmp_path: Path) -> None:
    settings = suspending_settings()
    settings["run_monitoring"]["max_resume_run_attempts"] = 0
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance:
        run = make_run(instance, dg.DagsterRunStatus.STARTING)
        with pytest.raises(PermanentError, match="max_resume_run_attempts"):
            instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))


def test_queue_gives_the_places_of_suspended_runs_to_others(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher
) -> None:
    coordinator = instance.run_coordinator
    assert isinstance(coordinator, SuspendingRunCoordinator)
    parked = AwaitedJob(step="a", experiment="b", key="c", number=1, job="1", folder="d", since=0)
    leave_state(launcher, make_run(instance))
    for _ in range(3):
        leave_state(launcher, make_run(instance), parked=parked)
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 8 + 3


def test_limit_that_would_count_suspended_runs_is_refused(tmp_path: Path) -> None:
    settings = suspending_settings()
    settings["concurrency"]["runs"] = {"max_concurrent_runs": 2}
    with (
        dg.DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance,
        pytest.raises(PermanentError, match="concurrency"),
    ):
        instance.get_concurrency_config()


def suspended_state(tmp_path: Path, *, slurm: SlurmSettings) -> dict[str, object]:
    """What the state of a suspended run says, whose job has its verdict."""
    job = AwaitedJob(step="letters", experiment="20240101", key="c" * 64, number=1, job="1", folder="d", since=0)
    attempt = JobRoot(Layout(tmp_path).jobs).attempt(("letters", "20240101"), key="c" * 64, number=1)
    attempt.folder.mkdir(parents=True, exist_ok=True)
    attempt.close(kind="done")
    return {"site": Site(data_root=tmp_path, slurm=slurm), "parked": job}


def test_note_that_cannot_be_read_holds_nobody_up_and_its_run_goes_on(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, tmp_path: Path
) -> None:
    broken, good = make_run(instance), make_run(instance)
    state = leave_state(launcher, good, **suspended_state(tmp_path, slurm=SlurmSettings()))
    launcher.states.path_of(broken.run_id).write_text('{"run_id": "x", "of_another_version": 1}')
    assert launcher.states.suspended() == [state]
    assert launcher.check_run_worker_health(good).status is WorkerStatus.NOT_FOUND
    assert launcher.check_run_worker_health(broken).status is WorkerStatus.NOT_FOUND


def test_cluster_that_cannot_even_be_asked_holds_up_its_own_runs_alone(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, tmp_path: Path
) -> None:
    odd, good = make_run(instance), make_run(instance)
    nowhere = SlurmSettings(transport="dagster_slurm", resource="no_such_module:slurm")
    leave_state(launcher, odd, **suspended_state(tmp_path, slurm=nowhere))
    leave_state(launcher, good, **suspended_state(tmp_path, slurm=SlurmSettings()))
    assert launcher.check_run_worker_health(good).status is WorkerStatus.NOT_FOUND
    health = launcher.check_run_worker_health(odd)
    assert (health.status, "no_such_module" in str(health.msg)) == (WorkerStatus.RUNNING, True)


def test_process_that_cannot_be_started_is_no_failure_of_its_run(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, tmp_path: Path
) -> None:
    origin = dg.reconstructable(empty).get_python_origin()
    run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED, job_code_origin=origin)
    state = leave_state(launcher, run, **suspended_state(tmp_path, slurm=SlurmSettings()))
    launcher.states.log(run.run_id).mkdir()  # no log, no process
    launcher.resume_run(ResumeRunContext(run, workspace=None, resume_attempt_number=1))
    assert launcher.states.read(run.run_id) == state
    assert not launcher.states.is_held(run.run_id)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND, "it is tried again"


def test_runs_that_are_deleted_or_were_ended_by_others_no_longer_count_as_suspended(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, tmp_path: Path
) -> None:
    deleted, failed, waiting = (make_run(instance) for _ in range(3))
    for run in (deleted, failed, waiting):
        leave_state(launcher, run, **suspended_state(tmp_path, slurm=SlurmSettings()))
    instance.delete_run(deleted.run_id)
    instance.report_run_failed(failed)
    launcher.check_run_worker_health(waiting)
    assert [state.run_id for state in launcher.states.suspended()] == [waiting.run_id]
    assert launcher.states.read(deleted.run_id) is None
    assert launcher.states.read(failed.run_id) == WorkerState(
        run_id=failed.run_id, site=launcher.states.suspended()[0].site
    )


# with a scheduler


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "root").mkdir()
    return open_toy(tmp_path / "root")


def suspend(
    workspace: Workspace, gate: Gate, *, experiment: str, run_id: str, force: bool = False
) -> SuspendedRun | None:
    """Do what a run's process does with the first step; None when there was nothing to wait for."""
    spec = workspace.pipeline.steps[0]
    place = SlurmExecutor(gate.settings(), pipeline=TOY, suspend=True)
    with lock_step(
        spec, workspace=workspace, experiment=experiment, run_id=run_id, executor=place, force=force
    ) as session:
        if session.cached is not None:
            return None
        with pytest.raises(SuspendedRun) as left:
            session.run()
    return left.value


@pytest.mark.slurm
def test_all_suspended_runs_are_one_question_and_resume_a_few_at_a_time(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, workspace: Workspace, gate: Gate
) -> None:
    gate.close()
    runs = [make_run(instance) for _ in range(6)]
    for number, run in enumerate(runs, 1):
        experiment = f"2024010{number}"
        write_words(workspace.layout, experiment, words={"A01": "fish"})
        suspended = suspend(workspace, gate, experiment=experiment, run_id=run.run_id)
        assert suspended is not None
        leave_suspended(launcher, run, suspended=suspended, gate=gate)

    def healths() -> list[WorkerStatus]:
        return [launcher.check_run_worker_health(run).status for run in runs]

    client = connect(gate.settings(), data_root=workspace.data_root)[0]
    before, began = client.scheduler.calls["squeue"], time.monotonic()
    assert healths() == [WorkerStatus.RUNNING] * 6
    assert healths() == [WorkerStatus.RUNNING] * 6
    asked = client.scheduler.calls["squeue"] - before
    assert 1 <= asked <= 1 + (time.monotonic() - began) // FRESH_S, "an answer is for all, and for some seconds"

    gate.open()
    deadline = time.monotonic() + 240
    while gate.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(FRESH_S)  # the last answer's age
    before = client.scheduler.calls["squeue"]
    assert healths() == [WorkerStatus.NOT_FOUND] * 6
    assert client.scheduler.calls["squeue"] == before, "what ended in peace has said so on the disk"
    with launcher.states.hold(runs[0].run_id), launcher.states.hold(runs[1].run_id):
        time.sleep(2.1)  # the age of the count of processes
        told = [launcher.check_run_worker_health(run) for run in runs[2:]]
    assert [health.status for health in told] == [WorkerStatus.RUNNING] * 4
    assert "waits for its turn" in str(told[0].msg)


@pytest.mark.slurm
def test_without_an_answer_a_suspended_run_waits(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, workspace: Workspace, gate: Gate
) -> None:
    gate.close()
    write_words(workspace.layout, "20240101", words={"A01": "fish"})
    run = make_run(instance)
    gate.switch("mute", on=True)
    suspended = suspend(workspace, gate, experiment="20240101", run_id=run.run_id)
    assert suspended is not None, "it suspends itself without an answer too"
    leave_suspended(launcher, run, suspended=suspended, gate=gate)
    health = launcher.check_run_worker_health(run)
    assert (health.status, "contact" in str(health.msg)) == (WorkerStatus.RUNNING, True)
    assert launcher.terminate(run.run_id)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELED
    assert any("may still be there" in entry.message for entry in instance.all_logs(run.run_id))
    assert suspended.handle.attempt.record("cancel") is not None, "the job meets the wish when it starts"


@pytest.mark.slurm
@pytest.mark.parametrize("force", [False, True])
def test_step_is_done_once_though_its_run_comes_to_it_again_and_again(
    workspace: Workspace, gate: Gate, force: bool
) -> None:
    write_words(workspace.layout, "20240101", words={"A01": "fish"})
    if force:
        gate.open()
        assert suspend(workspace, gate, experiment="20240101", run_id="before") is not None
        await_record(workspace, run_id="before")
    gate.close()
    suspended = suspend(workspace, gate, experiment="20240101", run_id="run", force=force)
    assert suspended is not None
    again = suspend(workspace, gate, experiment="20240101", run_id="run", force=force)
    assert again is not None
    assert again.handle.job == suspended.handle.job
    gate.open()
    await_record(workspace, run_id="run")
    for _ in range(2):
        assert suspend(workspace, gate, experiment="20240101", run_id="run", force=force) is None
    folder = Layout(workspace.data_root).jobs / "letters" / "20240101"
    kinds = [path.parent.name for path in folder.glob("*/*/closed.json")]
    assert kinds == ["a1"] * (2 if force else 1)


def await_record(workspace: Workspace, *, run_id: str) -> None:
    root = JobRoot(workspace.layout.jobs)
    deadline = time.monotonic() + 240
    while True:
        ends = [a for _, _, a in root.open_attempts() if (a.record("intent") or {}).get("run_id") == run_id]
        if ends and all(attempt.record("end") is not None for attempt in ends):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slurm
def test_terminate_cancels_a_job_whose_run_was_killed_before_it_was_suspended(
    instance: dg.DagsterInstance, launcher: SuspendingRunLauncher, workspace: Workspace, gate: Gate
) -> None:
    gate.close()
    write_words(workspace.layout, "20240101", words={"A01": "fish"})
    run = make_run(instance)
    suspended = suspend(workspace, gate, experiment="20240101", run_id=run.run_id)
    assert suspended is not None
    leave_state(launcher, run, site=Site(data_root=workspace.data_root, slurm=gate.settings()))
    assert launcher.terminate(run.run_id)
    assert suspended.handle.job not in gate.jobs()
    assert (suspended.handle.attempt.record("closed") or {})["kind"] == "cancelled"
