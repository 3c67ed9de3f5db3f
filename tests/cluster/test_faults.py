"""Faults around the protocol, on a real scheduler: whatever dies, one execution per request and one row per job."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import VOID
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.cluster.transports.protocol import Answer
from morphseq_dagster.settings.job_values import Resources
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import QUICK
from tests.support.slurm_faults import DoomedClients

pytestmark = pytest.mark.slurm

# A client in a process of its own: says "ready", waits for a line, ensures, says the number.
CHILD = """
import os, pickle, signal, sys
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.settings.slurm import SlurmSettings
from tests.support.slurm_cluster import UNHURRIED
from tests.support.slurm_faults import Interrupted
from pathlib import Path
root, spec, stop = Path(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2])), sys.argv[3] == "stop"
transport = make_transport(SlurmSettings.model_validate_json(sys.argv[4]))
stopping = Interrupted(transport, "sbatch", lambda: os.kill(os.getpid(), signal.SIGSTOP))
client = Client(Scheduler(stopping if stop else transport), root=JobRoot(root / "jobs"), timeouts=UNHURRIED)
print("ready", flush=True)
sys.stdin.readline()
live = client.ensure(spec, done=(root / f"{spec.group[1]}.result").is_file, run_id=str(os.getpid()))
print(live.job if isinstance(live, JobHandle) else "done", flush=True)
"""


def start_child(bench: Bench, spec: JobSpec, *, stop: bool = False) -> subprocess.Popen[str]:
    import pickle

    told = [str(bench.root), pickle.dumps(spec).hex(), "stop" if stop else "go"]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *told, bench.settings.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def finish_all(bench: Bench, specs: list[JobSpec], *, timeout_s: float = 300) -> None:
    """Ensure everything to its end as another run would, and look at what is left."""
    poller = Poller(bench.client)
    lives = [live for spec in specs if isinstance(live := bench.ensure(spec, run_id="survivor"), JobHandle)]
    for watch in [poller.watch(live, done=bench.done(live.spec.group[1])) for live in lives]:
        verdict = watch.wait(timeout_s)
        assert verdict is not None
        assert verdict.outcome is JobOutcome.DONE, verdict
    poller.close()
    assert bench.flaws(specs) == []


@pytest.mark.parametrize(
    "count", [20, pytest.param(80, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_client_killed_at_any_moment_of_the_submission(bench: Bench, count: int) -> None:
    chance = random.Random(count)
    with DoomedClients(bench.root, settings=bench.settings) as clients:
        whole_s = clients.kill_at_the_end([bench.spec("first")])
        for begin in range(0, count, 200):
            specs = [bench.spec(f"job{number}") for number in range(begin, min(count, begin + 200))]
            for spec in specs:
                # One in four takes the scheduler's command with it.
                clients.kill_after(
                    [spec], delay_s=chance.uniform(0, 1.2 * whole_s), with_command=chance.random() < 0.25
                )
            finish_all(bench, specs, timeout_s=300)
            left = sum(bench.client.root.attempts(spec.group, key=spec.key)[0].record("job") is None for spec in specs)
            print(f"{begin + len(specs)} killed, of the last {len(specs)} {left} first attempts without an answer")


def test_client_killed_at_each_step_of_the_submission(bench: Bench) -> None:
    specs: list[JobSpec] = []
    with DoomedClients(bench.root, settings=bench.settings) as clients:
        while not specs or clients.kill_at([specs[-1]], step=len(specs)):
            specs.append(bench.spec(f"job{len(specs) + 1}"))
    # Folder, request, script, intent, sbatch, number: made and renamed, and the last one was not killed.
    assert 10 <= len(specs) <= 40
    finish_all(bench, specs)


def test_twenty_clients_at_once_for_one_request(bench: Bench) -> None:
    spec = bench.spec("job", "sleep 1")
    children = [start_child(bench, spec) for _ in range(20)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = {child.communicate(timeout=300)[0].strip() for child in children}
    finish_all(bench, [spec])
    assert len(said - {"done"}) == 1
    assert len(bench.client.root.attempts(spec.group, key=spec.key)) == 1


def test_creator_suspended_between_intent_and_submission(bench: Bench) -> None:
    spec = bench.spec("job", "sleep 0.5")
    child = start_child(bench, spec, stop=True)
    child.stdin.write("go\n")
    child.stdin.flush()
    path = bench.client.root.attempt(spec.group, key=spec.key, number=1).path("intent.json")
    wait_for(path.exists)
    live = bench.ensure(spec)
    assert isinstance(live, JobHandle)
    assert live.attempt.number == 2
    child.send_signal(signal.SIGCONT)
    late = child.communicate(timeout=180)[0].strip()
    assert bench.finish(live).outcome is JobOutcome.DONE
    first = bench.client.root.attempts(spec.group, key=spec.key)[0]
    assert first.owner() == VOID
    assert late not in ("", live.job)
    finish_all(bench, [spec])


class Deaf(LocalTransport):
    """Runs a command, loses its answer, as often as told."""

    def __init__(self, command: str, times: int) -> None:
        self.command, self.times = command, times

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        answer = super().run(argv, timeout_s=timeout_s, stdin=stdin)
        if argv[0] == self.command and self.times > 0:
            self.times -= 1
            raise UnreachableError(expected="an answer", found="none", where="test", remedy="wait")
        return answer


def test_lost_answer_of_a_submission(bench: Bench) -> None:
    deaf = bench.with_transport(Deaf("sbatch", 1))
    spec = deaf.spec("job")
    with pytest.raises(UnreachableError):
        deaf.ensure(spec)
    live = deaf.ensure(spec)
    assert isinstance(live, JobHandle)
    assert live.adopted
    finish_all(deaf, [spec])
    assert deaf.client.scheduler.calls["sbatch"] == 1


def test_lost_answers_of_questions_are_waited_out(bench: Bench) -> None:
    deaf = bench.with_transport(Deaf("squeue", 3))
    verdict = deaf.run(deaf.spec("job", "sleep 0.5; exit 3"))
    assert verdict.outcome is JobOutcome.FAILED


def quick_client(bench: Bench) -> Client:
    """A client that does not wait the 16 s that commands give a dead controller."""
    return Client(Scheduler(LocalTransport(), timeout_s=2), root=bench.client.root, timeouts=QUICK)


def test_controller_away_while_jobs_end(bench: Bench) -> None:
    bench.client = quick_client(bench)
    hold = f"until [ -e {bench.root}/go ]; do sleep 0.1; done"
    good, bad = bench.ensure(bench.spec("good", hold)), bench.ensure(bench.spec("bad", f"{hold}; exit 3"))
    bench.until_running(good)
    bench.until_running(bad)
    poller = Poller(bench.client)
    bench.cluster.stop("slurmctld")
    try:
        watches = {live.spec.group[1]: poller.watch(live, done=bench.done(live.spec.group[1])) for live in (good, bad)}
        (bench.root / "go").touch()
        verdict = watches["good"].wait(120)
        assert verdict is not None, "success is known from files"
        assert verdict.outcome is JobOutcome.DONE
        wait_for(lambda: bool(watches["bad"].status.trouble) and bad.attempt.record("end") is not None)
        assert watches["bad"].verdict is None, "no answer proves nothing"
    finally:
        bench.cluster.start("slurmctld")
    verdict = watches["bad"].wait(180)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.FAILED


def test_controller_away_while_submitting(bench: Bench) -> None:
    bench.client = quick_client(bench)
    spec = bench.spec("job")
    bench.cluster.stop("slurmctld")
    try:
        for _ in range(2):
            with pytest.raises(UnreachableError):
                bench.ensure(spec)
    finally:
        bench.cluster.start("slurmctld")
    finish_all(bench, [spec])


def test_accounting_away(bench: Bench) -> None:
    bench.cluster.stop("slurmdbd")
    try:
        ends = {}
        for name, body in (("good", "true"), ("bad", "exit 3")):
            ends[name] = bench.run(bench.spec(name, body)).outcome
        live = bench.ensure(bench.spec("ended", "sleep 280"))
        bench.until_running(live)
        bench.cluster.ask("scancel", live.job)
        ends["ended"] = bench.finish(live).outcome
    finally:
        bench.cluster.start("slurmdbd")
    assert ends == {"good": JobOutcome.DONE, "bad": JobOutcome.FAILED, "ended": JobOutcome.CANCELLED}


def test_login_node_away_in_mid_job(bench: Bench) -> None:
    with_ssh = bench.with_transport(bench.cluster.ssh())
    hold = f"until [ -e {bench.root}/go ]; do sleep 0.1; done"
    good = with_ssh.ensure(with_ssh.spec("good", hold))
    bad = with_ssh.ensure(with_ssh.spec("bad", f"{hold}; exit 3"))
    for live in (good, bad):
        with_ssh.until_running(live)
    poller = Poller(with_ssh.client)
    watches = {live.spec.group[1]: poller.watch(live, done=bench.done(live.spec.group[1])) for live in (good, bad)}
    bench.cluster.stop("sshd")
    try:
        (bench.root / "go").touch()
        verdict = watches["good"].wait(120)
        assert verdict is not None
        assert verdict.outcome is JobOutcome.DONE
        with pytest.raises(UnreachableError):
            with_ssh.ensure(with_ssh.spec("new"))
        wait_for(lambda: bad.attempt.record("end") is not None)
        assert watches["bad"].verdict is None
    finally:
        bench.cluster.start("sshd")
    verdict = watches["bad"].wait(180)
    assert verdict is not None
    assert verdict.outcome is JobOutcome.FAILED
    finish_all(with_ssh, [with_ssh.spec("new")])
    poller.close()
    assert [len(bench.client.root.attempts(("step", n), key=with_ssh.spec(n).key)) for n in ("good", "bad")] == [1, 1]


def test_twenty_jobs_of_a_killed_client_are_found_again_without_a_submission(
    bench: Bench, make_bench: Callable[[Path], Bench]
) -> None:
    specs = [bench.spec(f"job{number}", "sleep 2") for number in range(20)]
    with DoomedClients(bench.root, settings=bench.settings) as clients:
        clients.kill_at_the_end(specs)
    other = make_bench(bench.root)
    finish_all(other, specs)
    assert other.client.scheduler.calls["sbatch"] == 0
    assert other.client.scheduler.calls["squeue"] <= 40


def test_jobs_of_a_killed_client_are_cancelled_from_their_folders_alone(
    bench: Bench, make_bench: Callable[[Path], Bench]
) -> None:
    specs = [bench.spec(f"job{number}", "sleep 280") for number in range(10)]
    with DoomedClients(bench.root, settings=bench.settings) as clients:
        clients.kill_at_the_end(specs)
    other = make_bench(bench.root)
    attempts = [attempt for _, _, attempt in other.client.root.open_attempts()]
    assert len(attempts) == 10
    other.client.cancel(attempts)
    other.client.await_cancelled(attempts)
    assert other.client.scheduler.calls["scancel"] == 1
    assert {(attempt.record("closed") or {})["kind"] for attempt in attempts} == {"cancelled"}
    assert not {attempt.job for attempt in attempts} & set(other.queued())
    assert not any(bench.done(spec.group[1])() for spec in specs)


def test_cancel_of_many_running_jobs(bench: Bench) -> None:
    lives = [bench.ensure(bench.spec(f"job{number}", "sleep 280")) for number in range(12)]
    for live in lives:
        bench.until_running(live)
    attempts = [live.attempt for live in lives]
    bench.client.cancel(attempts)
    bench.client.await_cancelled(attempts)
    assert bench.client.scheduler.calls["scancel"] == 1
    assert {(attempt.record("closed") or {})["kind"] for attempt in attempts} == {"cancelled"}
    assert not set(bench.queued()) & {live.job for live in lives}


def test_cancelled_job_that_waits_never_works(bench: Bench) -> None:
    whole = Resources(cpus=16, exclude="n1", memory="64M", time="5")
    first = bench.ensure(bench.spec("first", "sleep 280", resources=whole))
    bench.until_running(first)
    second = bench.ensure(bench.spec("second", resources=whole))
    bench.client.cancel([second.attempt, first.attempt])
    bench.client.await_cancelled([second.attempt, first.attempt])
    assert bench.executions("second") == 0


def test_poller_watches_many_jobs_with_few_questions(bench: Bench) -> None:
    specs = [bench.spec(f"job{number}", "sleep 1") for number in range(15)]
    finish_all(bench, specs)
    # One question covers all: far fewer than one per job and second.
    assert bench.client.scheduler.calls["squeue"] <= 20
    assert bench.client.scheduler.calls["sacct"] <= 4


def test_job_of_a_lost_node_that_the_scheduler_starts_again_is_one_attempt(bench: Bench) -> None:
    first = f"[ -e {bench.root}/twice ] || {{ touch {bench.root}/twice; sleep 280; }}"
    spec = bench.spec("job", first, resources=Resources(memory="64M", time="5", exclude="n1"))
    live = bench.ensure(spec)
    assert isinstance(live, JobHandle)
    wait_for((bench.root / "twice").exists)
    poller = Poller(bench.client)
    watch = poller.watch(live, done=bench.done("job"))
    bench.cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    wait_for(lambda: watch.status.state == "PENDING")
    bench.cluster.ask("scontrol", "update", "nodename=n2", "state=resume")
    bench.start_again(live)
    verdict = watch.wait(180)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.DONE
    assert bench.executions("job") == 2
    assert [attempt.job for attempt in bench.client.root.attempts(spec.group, key=spec.key)] == [live.job]
