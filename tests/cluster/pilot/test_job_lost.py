"""Pilot jobs that are cancelled, doubted, refused or lost, and whose submitter was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from morphseq_dagster.cluster.errors import RejectedError, UndecidedError, UnreachableError
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.pilot.job import submit_pilot
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.settings.job_values import Resources
from tests.support.pilot_bench import (
    SMALL,
    asked_at,
    begun,
    executions,
    finish,
    kinds,
    pilot_of,
    pilots_of,
    small,
    tasks,
)
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import QUICK, UNHURRIED, LocalCluster
from tests.support.slurm_faults import Interrupted

# A process that submits one pilot job for the requests named on its command line, and is killed before or after sbatch.
CHILD = """
import os, signal, sys
from pathlib import Path
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.cluster.pilot.job import PilotTask, submit_pilot
from morphseq_dagster.testing.sequel import SEQUEL, key_of
from tests.support.slurm_bench import Bench
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_faults import Interrupted
root, cluster = Path(sys.argv[1]), LocalCluster(Path("/"))
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
doomed = Interrupted(LocalTransport(), "sbatch", die, when=sys.argv[2])
bench = Bench(cluster, root, cluster.client(root / "jobs", transport=doomed))
resources = Resources(memory="32M", time="5")
specs = [bench.spec(name, sys.argv[4], resources=resources) for name in sys.argv[3].split(",")]
submit_pilot(bench.client, [PilotTask(spec, lambda _: None) for spec in specs], workers=4, python=sys.executable)
"""


@pytest.fixture
def local(cluster: LocalCluster, tmp_path: Path) -> Iterator[Bench]:
    found = Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs"))
    wait_for(lambda: not found.queued(), timeout_s=400)  # what others have left behind
    yield found
    wait_for(lambda: not found.queued())


@pytest.mark.slurm
def test_cancelling_one_task_leaves_the_allocation_and_cancelling_all_ends_it(local: Bench) -> None:
    agent = local.root / "foreman"
    specs = small(local, 6, f"echo $PPID > {agent}.$$; mv {agent}.$$ {agent}; sleep 280")
    lives = pilot_of(local, specs, workers=2)
    wait_for(lambda: begun(local, specs) == 2 and agent.exists())
    one, waiting = lives[0].attempt, lives[5].attempt
    local.client.cancel([one, waiting])
    local.client.await_cancelled([one, waiting])
    assert [(attempt.record("closed") or {})["kind"] for attempt in (one, waiting)] == ["cancelled"] * 2
    assert local.client.scheduler.calls["scancel"] == 0
    assert local.queued() == [lives[0].job]
    wait_for(lambda: local.executions("m002") == 1)
    left = [live.attempt for live in lives[1:5]]
    # Who looks between two wishes may end one task and begin the next.
    os.kill(int(agent.read_text()), signal.SIGSTOP)
    local.client.cancel(left)
    with suppress(ProcessLookupError):
        os.kill(int(agent.read_text()), signal.SIGCONT)
    local.client.await_cancelled(left)
    assert local.client.scheduler.calls["scancel"] == 1
    assert local.queued() == []
    assert {(attempt.record("closed") or {})["kind"] for attempt in left} == {"cancelled"}
    assert (pilots_of(local)[0].record("closed") or {})["kind"] == "cancelled"
    assert [local.executions(spec.group[1]) for spec in specs] == [1, 1, 1, 0, 0, 0]


@pytest.mark.slurm
def test_lost_answer_is_found_by_the_name_of_the_pilot_job(local: Bench) -> None:
    specs = small(local, 8)
    deaf = local.with_transport(Interrupted(LocalTransport(), "sbatch", lambda: None, when="after"))
    with pytest.raises(UnreachableError):
        pilot_of(deaf, specs)
    lives = []
    for spec in specs:
        live = deaf.client.ensure(spec, done=lambda: False, run_id="run")
        assert isinstance(live, JobHandle)
        lives.append(live)
    assert deaf.client.scheduler.calls["sbatch"] == 1
    assert deaf.client.scheduler.calls["squeue"] <= 1, "one answer is for all tasks"
    assert set(kinds(finish(deaf, lives))) == {JobOutcome.DONE}
    assert executions(local, specs) == {1}


@pytest.mark.slurm
@pytest.mark.parametrize("when", ["before", "after"])
def test_client_killed_around_sbatch_never_leads_to_a_second_execution(local: Bench, when: str) -> None:
    names = [f"m{number:03d}" for number in range(8)]
    hold = f"until [ -e {local.root}/go ]; do sleep 0.1; done"
    told = [str(local.root), when, ",".join(names), hold]
    done = subprocess.run([sys.executable, "-c", CHILD, *told], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    specs = [local.spec(name, hold, resources=SMALL) for name in names]
    lives = [found for spec in specs if isinstance(found := local.ensure(spec, run_id="next"), JobHandle)]
    assert len(lives) == len(names)
    (local.root / "go").touch()
    assert set(kinds(finish(local, lives))) == {JobOutcome.DONE}
    assert executions(local, specs) == {1}
    (pilot,) = pilots_of(local)
    assert local.client.scheduler.calls["sbatch"] == (0 if when == "after" else len(names))
    assert (pilot.job is not None) == (when == "after")
    assert pilot.is_closed


@pytest.mark.slurm
def test_doubtful_tasks_are_asked_for_together_and_given_up_after_their_grace(local: Bench) -> None:
    specs = small(local, 5)
    gone = local.with_transport(Interrupted(LocalTransport(), "sbatch", lambda: None, when="instead"))
    gone.client.timeouts = UNHURRIED
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        pilot_of(gone, specs)
    for spec in specs:
        with pytest.raises(UndecidedError):
            gone.client.ensure(spec, done=lambda: False, run_id="run", wait=False)
    assert 1 <= gone.client.scheduler.calls["squeue"] <= 1 + (time.monotonic() - began) // 2, "an answer is for 2 s"
    gone.client.timeouts = QUICK
    verdicts = [gone.run(spec) for spec in specs]
    assert set(kinds(verdicts)) == {JobOutcome.DONE}
    for spec in specs:
        first, second = local.client.root.attempts(spec.group, key=spec.key)
        assert asked_at(second) - asked_at(first) >= QUICK.grace_s
    assert executions(local, specs) == {1}
    assert {spec.group[1]: len(local.client.root.attempts(spec.group, key=spec.key)) for spec in specs} == {
        spec.group[1]: 2 for spec in specs
    }


@pytest.mark.slurm
def test_rejected_pilot_job_leaves_nothing_open(local: Bench) -> None:
    specs = [local.spec(f"r{number}", resources=Resources(partition="nowhere", memory="32M")) for number in range(3)]
    with pytest.raises(RejectedError):
        submit_pilot(local.client, tasks(specs), workers=2, python=sys.executable)
    assert list(local.client.root.open_attempts()) == []
    assert (pilots_of(local)[0].record("closed") or {})["kind"] == "rejected"
