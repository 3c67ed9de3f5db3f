"""What a process may use: where it is read from, the workers that follow, and a job that uses what it was given."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.engine.executors.allocation import Allocation, count_usable, read_allocation
from morphseq_dagster.engine.executors.protocol import Committed
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.chain import TOY, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE
from tests.support.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"
SPEC = TOY_PIPELINE.spec("letters")
USABLE = count_usable()


@pytest.mark.parametrize(
    ("variables", "cpus", "found"),
    [
        ({}, None, USABLE),
        ({}, 3, 3),
        ({"SLURM_CPUS_PER_TASK": "1"}, None, 1),
        ({"SLURM_CPUS_PER_TASK": "4096"}, None, USABLE),
        ({"SLURM_CPUS_PER_TASK": "1", "MORPHSEQ_CPUS": "5"}, None, 5),
        ({"SLURM_CPUS_PER_TASK": "1", "MORPHSEQ_CPUS": "5"}, 2, 2),
    ],
)
def test_processors_are_those_given_from_the_nearest(variables: dict[str, str], cpus: int | None, found: int) -> None:
    assert read_allocation(variables, cpus=cpus).cpus == found


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("", ()),
        ("0", ("0",)),
        ("0,3", ("0", "3")),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("GPU-a, MIG-b", ("GPU-a", "MIG-b")),
    ],
)
def test_gpus_are_those_that_are_visible(text: str, gpus: tuple[str, ...]) -> None:
    assert read_allocation({"CUDA_VISIBLE_DEVICES": text}, cpus=1).gpus == gpus


@pytest.mark.parametrize(
    ("variables", "memory"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "4096"}, 4096),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "500"}, 1500),
    ],
)
def test_memory_is_what_the_scheduler_says(variables: dict[str, str], memory: float | None) -> None:
    assert read_allocation(variables, cpus=3).memory_mb == memory


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5", "²"])
@pytest.mark.parametrize("name", ["MORPHSEQ_CPUS", "SLURM_CPUS_PER_TASK"])
def test_number_that_is_none_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(PermanentError, match=name):
        read_allocation({name: text})


def count_workers(allocation: Allocation, *, gpu_step: bool = False) -> int:
    pool = allocation.workers(replace(SPEC, pool="gpu") if gpu_step else SPEC)
    return 1 if pool is None else pool.size


def test_workers_are_bounded_by_processors_memory_and_for_models_by_gpus() -> None:
    assert count_workers(Allocation(cpus=1)) == 1
    assert count_workers(Allocation(cpus=8)) == 8
    assert count_workers(Allocation(cpus=8, memory_mb=3 * 1024)) == 3
    assert count_workers(Allocation(cpus=8, memory_mb=600)) == 1
    assert count_workers(Allocation(cpus=8, gpus=("0", "1"))) == 8
    assert count_workers(Allocation(cpus=8, gpus=("0", "1")), gpu_step=True) == 2
    assert count_workers(Allocation(cpus=8, gpus=("0",)), gpu_step=True) == 1
    assert count_workers(Allocation(cpus=1, gpus=("0", "1")), gpu_step=True) == 1
    assert count_workers(Allocation(cpus=8), gpu_step=True) == 8


def test_processors_of_this_process_are_those_it_may_run_on() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from morphseq_dagster.engine.executors.allocation import read_allocation\n"
        "print(read_allocation({'SLURM_CPUS_PER_TASK': '2'}).cpus, read_allocation({}).cpus)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.slurm
@pytest.mark.skipif(USABLE < 2, reason="workers need two processors")
def test_job_with_two_processors_works_on_two_wells_at_once(workspace: Workspace, cluster: LocalCluster) -> None:
    write_words(workspace.layout, EXPERIMENT, words={f"A{n:02d}": f"fish{n}" for n in range(1, 7)})
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir(exist_ok=True)
    go = workspace.data_root.with_name("go")
    recipe.write_text(f'[letters]\nslow_s = 0.3\nhold = "{go}"\n')
    place = SlurmExecutor(cluster.settings(resources={"cpus": 2, "memory": "3G", "time": 5}), pipeline=TOY)
    most, over = 0, threading.Event()

    def count() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, len(workers_below(str(workspace.data_root))))
            if most == 2:
                go.touch()

    counter = threading.Thread(target=count)
    counter.start()
    try:
        with lock_step(SPEC, workspace=workspace, experiment=EXPERIMENT, run_id="r", executor=place) as session:
            outcome = session.run()
            record = finish(workspace.layout, outcome=outcome)
    finally:
        over.set()
        counter.join()
    assert most == 2
    assert list(record.wells) == [f"A{n:02d}" for n in range(1, 7)]
    assert isinstance(outcome, Committed)
    assert 30 < float(outcome.facts["max_rss_mb"]) < 3 * 1024
    assert not workers_below(str(workspace.data_root))


def workers_below(data_root: str) -> list[int]:
    """Workers whose runner was started for a data root."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if "morphseq_dagster.engine.executors.pool_worker" in process.cmdline() and process.pid != os.getpid():
                parent = process.parent()
                if parent is not None and any(word.startswith(data_root) for word in parent.cmdline()):
                    found.append(process.pid)
    return found
