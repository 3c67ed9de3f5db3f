"""Every end that this machine's Slurm can show, each as it is named; at most one execution and one row per job."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.errors import RejectedError
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.usage import collect_facts
from morphseq_dagster.settings.job_values import Environment, Resources
from tests.support.slurm_bench import Bench, wait_for

pytestmark = pytest.mark.slurm
MINUTE = Resources(memory="64M", time="1")


@pytest.fixture(scope="module")
def limited(
    make_bench: Callable[[Path], Bench], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bench, dict[str, JobHandle]]:
    """Jobs that meet their time limit, begun first: Slurm's shortest is a minute, in which the other tests run."""
    root = tmp_path_factory.mktemp("limited")
    bench = make_bench(root)
    heed = f"trap 'touch {root}/warned; kill $!; exit 3' USR1; sleep 300 & wait"
    return bench, {
        "plain": bench.ensure(bench.spec("plain", "sleep 300", resources=MINUTE)),
        "deaf": bench.ensure(bench.spec("deaf", "exec sleep 300", resources=MINUTE, warn_s=15)),
        "heeding": bench.ensure(bench.spec("heeding", heed, resources=MINUTE, warn_s=15)),
    }


@pytest.fixture(autouse=True)
def _begin(limited: tuple[Bench, dict[str, JobHandle]]) -> None:
    del limited


@pytest.mark.parametrize(
    ("body", "outcome", "code"),
    [
        ("", JobOutcome.DONE, 0),
        ("exit 7", JobOutcome.FAILED, 7),
        ("kill -SEGV $$", JobOutcome.CRASH, 139),
        ("kill -KILL $$", JobOutcome.KILLED, 137),
        ("exec /no/such/program", JobOutcome.CONFIG, 127),
    ],
    ids=["done", "exit 7", "SIGSEGV", "SIGKILL", "no program"],
)
def test_end_of_the_command_itself(bench: Bench, body: str, outcome: JobOutcome, code: int) -> None:
    live = bench.ensure(bench.spec("job", body))
    verdict = bench.finish(live)
    assert verdict.outcome is outcome
    assert (live.attempt.record("end") or {})["rc"] == code
    assert bench.executions("job") == 1
    assert (live.attempt.record("closed") or {})["kind"] == outcome.value


def test_python_error_is_failed_and_its_last_lines_are_told(bench: Bench) -> None:
    verdict = bench.run(bench.spec("job", "python3 -c 'raise ValueError(\"bad well\")' || exit 1"))
    assert verdict.outcome is JobOutcome.FAILED
    assert "ValueError: bad well" in verdict.log


def test_end_without_a_result_is_failed(bench: Bench) -> None:
    verdict = bench.run(bench.spec("job", "exit 0"))
    assert verdict.outcome is JobOutcome.FAILED
    assert "left no result" in verdict.reason


def test_job_over_its_memory_is_told_from_one_that_was_killed(bench: Bench) -> None:
    hog = "exec python3 -c 'import time; x = bytearray(300 * 2**20); time.sleep(60)'"
    live = bench.ensure(bench.spec("job", hog, resources=Resources(memory="32M", time="5")))
    assert bench.finish(live).outcome is JobOutcome.OOM


def test_cancelled_from_outside_while_it_runs(bench: Bench) -> None:
    live = bench.ensure(bench.spec("job", "sleep 280"))
    bench.until_running(live)
    bench.cluster.ask("scancel", live.job)
    verdict = bench.finish(live)
    assert verdict.outcome is JobOutcome.CANCELLED
    assert (live.attempt.record("end") or {})["signal"] == "TERM"


def test_cancelled_from_outside_while_it_waits(bench: Bench) -> None:
    whole = Resources(cpus=16, exclude="n1", memory="64M", time="5")
    first = bench.ensure(bench.spec("first", "sleep 280", resources=whole))
    bench.until_running(first)
    live = bench.ensure(bench.spec("job", resources=whole))
    bench.cluster.ask("scancel", live.job)
    assert bench.finish(live).outcome is JobOutcome.CANCELLED
    assert bench.executions("job") == 0


def test_killed_hard_from_outside_is_cancelled(bench: Bench) -> None:
    live = bench.ensure(bench.spec("job", "sleep 280"))
    bench.until_running(live)
    bench.cluster.ask("scancel", "-b", "-f", "-s", "KILL", live.job)
    assert bench.finish(live).outcome in (JobOutcome.CANCELLED, JobOutcome.KILLED)


def test_lost_folder_is_a_matter_of_configuration(bench: Bench) -> None:
    whole = Resources(cpus=16, exclude="n1", memory="64M")
    held = bench.ensure(bench.spec("first", f"until [ -e {bench.root}/go ]; do sleep 0.1; done", resources=whole))
    bench.until_running(held)
    live = bench.ensure(bench.spec("job", resources=whole))
    shutil.move(live.attempt.folder, bench.root / "away")
    (bench.root / "go").touch()
    bench.finish(held)
    # Its record is written where the folder was; the closing needs one.
    deadline = time.monotonic() + 120
    view = bench.client.observe([replace_folder(live, bench.root / "away")])
    while not (isinstance(row := next(iter(view.values())).queue, Row) and row.state == "FAILED"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
        view = bench.client.observe([replace_folder(live, bench.root / "away")])
    moved = replace_folder(live, bench.root / "away")
    verdict = bench.client.judge(moved, done=False, view=view[live.attempt.token])
    assert verdict is not None
    assert verdict.outcome is JobOutcome.CONFIG


def replace_folder(live: JobHandle, folder: Path) -> JobHandle:
    return replace(live, attempt=replace(live.attempt, folder=folder))


@pytest.mark.parametrize(
    "change",
    [
        {"resources": Resources(partition="nowhere")},
        {"resources": Resources(memory="900G")},
        {"resources": Resources(gpus="9")},
        {"resources": Resources(constraint="purple")},
    ],
    ids=["partition", "memory", "gpus", "constraint"],
)
def test_request_that_cannot_be_met_is_rejected_with_the_schedulers_words(
    bench: Bench, change: dict[str, object]
) -> None:
    spec = replace(bench.spec("job"), **change)
    with pytest.raises(RejectedError, match="sbatch: error"):
        bench.ensure(spec)
    assert bench.executions("job") == 0
    assert (bench.client.root.attempts(spec.group, key=spec.key)[0].record("closed") or {})["kind"] == "rejected"


def test_job_that_the_scheduler_starts_again_is_one_attempt_with_one_result(bench: Bench) -> None:
    live = bench.ensure(bench.spec("job", f"[ -e {bench.root}/twice ] || {{ touch {bench.root}/twice; sleep 60; }}"))
    poller = Poller(bench.client)
    watch = poller.watch(live, done=bench.done("job"))
    wait_for((bench.root / "twice").exists)
    bench.cluster.ask("scontrol", "requeue", live.job)
    bench.start_again(live)
    wait_for(lambda: (live.attempt.record("start") or {}).get("restart") == 1)
    verdict = watch.wait(180)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.DONE, "the end of its first life is no end"
    assert bench.executions("job") == 2
    assert len(bench.client.root.attempts(live.spec.group, key=live.spec.key)) == 1
    assert collect_facts(live.attempt, verdict=verdict)["restarts"] == 1


def test_facts_of_a_job_need_no_accounting(bench: Bench) -> None:
    burn = "python3 -c 'import time; t = time.process_time()\nwhile time.process_time() - t < 1: pass'"
    live = bench.ensure(bench.spec("job", burn, resources=Resources(cpus=2, memory="64M", gpus="1", time="5")))
    facts = collect_facts(live.attempt, verdict=bench.finish(live))
    assert bench.client.scheduler.calls["sacct"] == 0
    assert facts["outcome"] == "done"
    assert facts["node"] in ("n1", "n2")
    assert "queue_s" in facts
    run_s, cpu_s = float(facts["run_s"]), float(facts["cpu_s"])
    assert 1 <= cpu_s < run_s * 2
    assert facts["cpu_efficiency"] == pytest.approx(cpu_s / run_s / 2, abs=0.002)
    assert (facts["memory_mb"], facts["attempt"], facts["restarts"]) == (64, 1, 0)
    assert facts["gpus"] in ("0", "1")


def test_submitters_environment_does_not_reach_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHSEQ_SECRET", "x")
    spec = replace(bench.spec("job", f"env > {bench.root}/seen"), environment=Environment(variables={"GIVEN": "y"}))
    assert bench.run(spec).outcome is JobOutcome.DONE
    seen = (bench.root / "seen").read_text()
    assert "MORPHSEQ_SECRET" not in seen
    assert "GIVEN=y" in seen
    assert "OMP_NUM_THREADS=1" in seen


def test_time_limits_are_told_whether_the_job_heeds_the_warning_or_not(
    limited: tuple[Bench, dict[str, JobHandle]],
) -> None:
    bench, lives = limited
    poller = Poller(bench.client)
    watches = {name: poller.watch(live, done=bench.done(name)) for name, live in lives.items()}
    ends = {}
    for name, watch in watches.items():
        verdict = watch.wait(180)
        assert verdict is not None, name
        ends[name] = verdict.outcome
    poller.close()
    assert ends == dict.fromkeys(("plain", "deaf", "heeding"), JobOutcome.TIMEOUT)
    assert (bench.root / "warned").exists()
    assert (lives["deaf"].attempt.record("end") or {})["signal"] == "USR1"


def test_job_on_a_node_that_goes_down_is_told_so_and_the_node_named(bench: Bench) -> None:
    spec = replace(bench.spec("job", "sleep 280", resources=Resources(memory="64M", exclude="n1")), requeue=False)
    live = bench.ensure(spec)
    bench.until_running(live)
    bench.cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    try:
        verdict = bench.finish(live)
    finally:
        bench.cluster.ask("scontrol", "update", "nodename=n2", "state=resume")
    assert (verdict.outcome, verdict.node) == (JobOutcome.NODE, "n2")
