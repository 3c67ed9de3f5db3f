"""Wells over worker processes: the same results in the same order, within what was given, and nobody left behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.executors.allocation import Allocation
from morphseq_dagster.engine.executors.execution import execute_body, publish
from morphseq_dagster.engine.executors.local import LocalExecutor, SubprocessExecutor
from morphseq_dagster.engine.executors.pool import WorkerLostError, WorkerPool
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.checkpoints import WellPayload, load_checkpoint
from morphseq_dagster.engine.storage.records import Record, encode, read_failure
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE

EXPERIMENT = "20240418"
WELLS = {f"A{n:02d}": word for n, word in enumerate(["fish", "fin", "yolk", "fail", "tail", "eye", "heart"], start=1)}

# Computations of one step `letters` that each test names; each well says what it saw.
COMPUTATIONS = """
import os, time
import cv2
import numpy as np
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.errors import PermanentError

def load(context):
    return os.getpid()

def busy(task, _):
    picture = np.zeros((1500, 1500), np.float32)
    matrix = np.ones((400, 400))
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        cv2.GaussianBlur(picture, (0, 0), 5)
        matrix @ matrix
    return WellPayload({}, {})

def surroundings(task, loaded_by):
    time.sleep(0.3)
    return WellPayload({"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": cv2.getNumThreads(),
                        "pid": os.getpid(), "loaded_by": loaded_by}, {})

def chatty(task, _):
    os.write(1, b'no answer\\n')
    print("words of a library", flush=True)
    return WellPayload({}, {})

def load_nothing(context):
    raise PermanentError(expected="weights", found="none", where="the machine", remedy="install them")
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words=WELLS)
    return workspace


@pytest.fixture
def computations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "pool_computations.py").write_text(COMPUTATIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("pool_computations")
    sys.modules.pop("pool_computations", None)


def toy_request(workspace: Workspace) -> StepRequest:
    return workspace.request(workspace.pipeline.spec("letters"), experiment=EXPERIMENT, run_id="r")


def published(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.data_root
    kept = [path for path in sorted(root.rglob("*")) if path.is_file() and ".morphseq" not in path.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in kept if not p.name.endswith(".provenance.json")}


def run_letters(workspace: Workspace, cpus: int) -> tuple[Record, list[Progress]]:
    spec, request = workspace.pipeline.spec("letters"), toy_request(workspace)
    seen: list[Progress] = []
    workers = Allocation(cpus=cpus).workers(spec)
    executed = execute_body(
        spec, request=request, layout=workspace.layout, place="process", workers=workers, progress=seen.append
    )
    return publish(workspace.layout, executed=executed), seen


def map_eight(workspace: Workspace, computations: ModuleType, compute: str, pool: WorkerPool) -> dict[str, WellPayload]:
    """Map a computation over eight wells; what each of them left."""
    run = map_wells(
        StepContext(toy_request(workspace), layout=workspace.layout, workers=pool),
        tasks=[WellTask(f"A{n:02d}", n) for n in range(1, 9)],
        compute=getattr(computations, compute),
        load=computations.load,
        state=os.getpid(),
        restore=lambda _: None,
        max_failed_share=0.5,
    )
    assert list(run.payloads) == [f"A{n:02d}" for n in range(1, 9)]
    return dict(run.payloads)


def until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "morphseq_dagster.engine.executors.pool_worker" in child.cmdline():
                found.append(child)
    return found


def test_bytes_states_and_order_are_equal_for_any_number_of_workers(tmp_path: Path) -> None:
    spaces = {cpus: open_toy(tmp_path / str(cpus)) for cpus in (1, 2, 4)}
    records = {}
    for cpus, space in spaces.items():
        write_words(space.layout, EXPERIMENT, words=WELLS)
        records[cpus], seen = run_letters(space, cpus)
        assert [(p.done, p.total) for p in seen] == [(n, len(WELLS)) for n in range(1, len(WELLS) + 1)]
        assert {p.label for p in seen} == set(WELLS)
    for cpus in (2, 4):
        assert published(spaces[cpus]) == published(spaces[1])
        assert list(records[cpus].wells.items()) == list(records[1].wells.items())
        assert (records[cpus].data_version, records[cpus].counts) == (records[1].data_version, records[1].counts)
    assert list(records[1].wells) == list(WELLS)
    assert [well for well, state in records[4].wells.items() if state.status == "failed"] == ["A04"]


def test_finished_and_unchanged_wells_are_not_given_to_workers(workspace: Workspace) -> None:
    first, _ = run_letters(workspace, 2)
    assert first.counts["computed"] == len(WELLS)
    write_words(workspace.layout, EXPERIMENT, words={**WELLS, "A02": "gill", "A06": "otic"})
    second, _ = run_letters(workspace, 2)
    assert second.counts["computed"] == 3, "two changed ones, and the one that failed"


def test_thread_pools_and_workers_stay_within_the_processors_given(
    computations: ModuleType, workspace: Workspace
) -> None:
    # Threads that could be at work are counted as the kernel shows them, while the wells use every pool.
    request = tmp_request(workspace)
    program = (
        "import sys\n"
        "from morphseq_dagster.engine.contract.context import StepContext\n"
        "from morphseq_dagster.engine.contract.step import StepRequest\n"
        "from morphseq_dagster.engine.contract.wells import WellTask, map_wells\n"
        "from morphseq_dagster.engine.executors.allocation import Allocation\n"
        "from morphseq_dagster.testing.toy import TOY_PIPELINE\n"
        "from pathlib import Path\n"
        "workers = Allocation(cpus=int(sys.argv[1])).take_up(TOY_PIPELINE.spec('letters'))\n"
        "import pool_computations\n"
        "request = StepRequest.model_validate_json(open(sys.argv[2], 'rb').read())\n"
        "layout = TOY_PIPELINE.layout(Path(request.data_root))\n"
        "context = StepContext(request, layout=layout, workers=workers)\n"
        "tasks = [WellTask(f'A{n:02d}', n) for n in range(1, 9)]\n"
        "map_wells(context, tasks=tasks, compute=pool_computations.busy, load=pool_computations.load, state=None,\n"
        "          restore=lambda _: None, max_failed_share=0)\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for cpus in (1, 3):
        command = [sys.executable, "-c", program, str(cpus), str(request)]
        most_threads = most_workers = 0
        with subprocess.Popen(command, env=variables) as runner:
            while runner.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    workers = workers_of(runner.pid)
                    computing = workers or [psutil.Process(runner.pid)]
                    most_workers = max(most_workers, len(workers))
                    # Alone, or the workers: the process that started them waits meanwhile.
                    if cpus == 1 or workers:
                        most_threads = max(most_threads, sum(process.num_threads() for process in computing))
                time.sleep(0.02)
        assert runner.returncode == 0
        assert most_workers == (0 if cpus == 1 else cpus)
        assert most_threads == cpus
        for folder in workspace.layout.checkpoints("letters", experiment=EXPERIMENT).iterdir():
            (folder / "checkpoint.json").unlink()


def tmp_request(workspace: Workspace) -> Path:
    path = workspace.data_root / "request.json"
    write_durably(path, encode(toy_request(workspace)))
    return path


def test_worker_gets_one_gpu_in_turn_and_its_share_of_threads(computations: ModuleType, workspace: Workspace) -> None:
    pool = WorkerPool(size=4, cpus=4, gpus=("3", "GPU-5"))
    left = map_eight(workspace, computations, "surroundings", pool)
    seen = {payload.data["pid"]: payload.data["gpu"] for payload in left.values()}
    assert len(seen) == 4
    assert sorted(seen.values()) == ["3", "3", "GPU-5", "GPU-5"]
    assert {payload.data["threads"] for payload in left.values()} == {1}
    assert all(payload.data["loaded_by"] == payload.data["pid"] for payload in left.values()), (
        "each loads its own state"
    )
    assert 4 * 20 < pool.peak_mb < 4 * 2000, "all four are counted"


def test_worker_without_gpus_sees_what_its_parent_sees(
    computations: ModuleType, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    left = map_eight(workspace, computations, "surroundings", WorkerPool(size=2, cpus=2))
    assert {payload.data["gpu"] for payload in left.values()} == {""}


def test_words_of_native_code_are_no_answers(
    computations: ModuleType, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    map_eight(workspace, computations, "chatty", WorkerPool(size=2, cpus=2))
    printed = capfd.readouterr()
    assert printed.err.count("words of a library") == 8
    assert "words" not in printed.out


def test_state_that_cannot_be_loaded_in_a_worker_fails_the_step_not_its_wells(
    computations: ModuleType, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computations, "load", computations.load_nothing)
    with pytest.raises(PermanentError, match="expected weights; found none"):
        map_eight(workspace, computations, "busy", WorkerPool(size=2, cpus=2))
    assert not workspace.layout.checkpoints("letters", experiment=EXPERIMENT).exists()
    assert not workers_of(os.getpid())


def test_full_disk_in_one_worker_stops_the_step_as_it_does_alone(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={**WELLS, "A07": "full"})
    with pytest.raises(TransientError, match="No space left"):
        run_letters(workspace, 2)
    kept = workspace.layout.checkpoints("letters", experiment=EXPERIMENT)
    # Wells are begun in their order, so with two workers one of them had finished others before it came to A07.
    finished = {path.name for path in kept.iterdir() if (path / "checkpoint.json").is_file()}
    assert finished, "what was finished stays"
    assert "A07" not in finished
    assert not workers_of(os.getpid())


def test_killed_worker_is_an_error_in_this_process_and_finished_wells_are_kept(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin", "A03": "yolk", "A04": "kill"})
    with pytest.raises(WorkerLostError, match=r"SIGKILL.*in well A04"):
        run_letters(workspace, 2)
    assert read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT)) is not None
    assert not workers_of(os.getpid())
    kept = workspace.layout.checkpoints("letters", experiment=EXPERIMENT)
    finished = {path.name for path in kept.iterdir() if (path / "checkpoint.json").is_file()}
    assert finished
    assert "A04" not in finished


def test_killed_worker_ends_the_runner_in_the_same_way(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "kill"})
    spec = workspace.pipeline.spec("letters")
    for cpus in (None, 2):
        with (
            lock_step(
                spec,
                workspace=workspace,
                experiment=EXPERIMENT,
                run_id=f"r{cpus}",
                force=True,
                executor=SubprocessExecutor(pipeline=TOY, cpus=cpus),
            ) as step,
            pytest.raises(TransientError, match="the process was ended by SIGKILL"),
        ):
            step.run()
    failure = read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT))
    assert failure is not None
    assert failure.tries == 2, "each end is counted once"


def start_runner(workspace: Workspace) -> subprocess.Popen[bytes]:
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text("[letters]\nslow_s = 60\n")
    command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(tmp_request(workspace))]
    return subprocess.Popen([*command, "--pipeline", TOY, "--cpus", "3"], stderr=subprocess.PIPE)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_no_worker_outlives_its_parent(workspace: Workspace, sent: signal.Signals) -> None:
    with start_runner(workspace) as runner:
        until(lambda: len(workers_of(runner.pid)) == 3)
        workers = workers_of(runner.pid)
        runner.send_signal(sent)
        runner.wait(timeout=120)
        until(lambda: all(is_gone(worker) for worker in workers))
    assert runner.returncode == (1 if sent is signal.SIGUSR1 else -sent)


def test_places_of_this_machine_use_the_processors_set_for_them(workspace: Workspace, tmp_path: Path) -> None:
    other = open_toy(tmp_path / "other")
    write_words(other.layout, EXPERIMENT, words=WELLS)
    spec = workspace.pipeline.spec("letters")
    executors = LocalExecutor(TOY_PIPELINE, cpus=2), SubprocessExecutor(pipeline=TOY, cpus=2)
    for space, executor in zip((workspace, other), executors, strict=True):
        with lock_step(spec, workspace=space, experiment=EXPERIMENT, run_id="r", executor=executor) as step:
            finish(space.layout, outcome=step.run())
    assert published(other) == published(workspace)


def test_checkpoint_of_a_worker_is_one_of_this_process(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={**dict.fromkeys(WELLS, "fail"), "A01": "fish", "A02": "fin"})
    with pytest.raises(PermanentError, match="wells to fail"):
        run_letters(workspace, 2)
    folder = workspace.layout.checkpoints("letters", experiment=EXPERIMENT) / "A01"
    key = json.loads((folder / "checkpoint.json").read_bytes())["key"]
    assert load_checkpoint(folder, key=key) is not None
