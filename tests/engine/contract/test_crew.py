"""Wells over worker processes: the same results in the same order, within what was given, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.crew import Crew, WorkerLostError, employing
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.executors.allocation import Allocation
from morphseq_dagster.engine.executors.execution import execute_body, publish
from morphseq_dagster.engine.executors.local import LocalExecutor, SubprocessExecutor
from morphseq_dagster.engine.locked_step import finish, lock_step, run_locked
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.checkpoints import WellPayload, load_checkpoint
from morphseq_dagster.engine.storage.records import Record, encode, read_failure
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.runs.listeners import listening
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE

EXPERIMENT = "20240418"
WELLS = {f"A{n:02d}": word for n, word in enumerate(["fish", "fin", "yolk", "fail", "tail", "eye", "heart"], start=1)}

# Bodies of one step `letters` that each test names; each well says what it saw.
BODIES = """
import os, threading, time
from pathlib import Path
import cv2
import numpy as np
from morphseq_dagster.engine.contract.wells import WellTask, run_wells
from morphseq_dagster.engine.contract.context import Workbench
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.testing.toy import TOY_PIPELINE

def _run(request, compute):
    context = Workbench(request, artifacts=TOY_PIPELINE.artifacts)
    tasks = [WellTask(f"A{n:02d}", n) for n in range(1, 9)]
    global LAST
    LAST = run_wells(context, tasks=tasks, compute=compute, restore=lambda _: None, max_failed_share=0.5)
    raise SystemExit(0)

def busy(request):
    def compute(task):
        picture = np.zeros((1500, 1500), np.float32)
        matrix = np.ones((400, 400))
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            cv2.GaussianBlur(picture, (0, 0), 5)
            matrix @ matrix
        return WellPayload({}, {})
    _run(request, compute)

def surroundings(request):
    def compute(task):
        time.sleep(0.3)
        return WellPayload({"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": cv2.getNumThreads(),
                            "pid": os.getpid()}, {})
    _run(request, compute)

def chatty(request):
    def compute(task):
        os.write(1, b'{"well": "A01", "state": "no answer"}\\n')
        print("words of a library", flush=True)
        return WellPayload({}, {})
    _run(request, compute)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words=WELLS)
    return workspace


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "crew_bodies.py").write_text(BODIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "crew_bodies"
    sys.modules.pop("crew_bodies", None)


def toy_request(workspace: Workspace) -> StepRequest:
    return workspace.request(workspace.pipeline.spec("letters"), experiment=EXPERIMENT, run_id="r")


def published(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.data_root
    kept = [path for path in sorted(root.rglob("*")) if path.is_file() and ".morphseq" not in path.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in kept if not p.name.endswith(".provenance.json")}


def run_letters(workspace: Workspace, cpus: int) -> tuple[Record, list[Progress]]:
    spec, request = workspace.pipeline.spec("letters"), toy_request(workspace)
    heard: list[Progress] = []
    with listening(heard.append):
        executed = execute_body(spec, request=request, place="process", allocation=Allocation(cpus=cpus))
    return publish(workspace.layout, executed=executed), heard


def run_body(workspace: Workspace, body: str, allocation: Allocation) -> dict[str, WellPayload]:
    """Run a body that keeps nothing but its wells; what each of them left."""
    request = toy_request(workspace)
    spec = StepSpec("letters", 1, body, (), "", "toy")
    with employing(allocation.crew(spec)), suppress(SystemExit):
        spec.load()(request)
    run = sys.modules[body.partition(":")[0]].LAST
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
            if "morphseq_dagster.engine.contract.worker" in child.cmdline():
                found.append(child)
    return found


def test_bytes_states_and_order_are_equal_for_any_number_of_workers(tmp_path: Path) -> None:
    spaces = {cpus: open_toy(tmp_path / str(cpus)) for cpus in (1, 2, 4)}
    records = {}
    for cpus, space in spaces.items():
        write_words(space.layout, EXPERIMENT, words=WELLS)
        records[cpus], heard = run_letters(space, cpus)
        assert [(p.done, p.total) for p in heard] == [(n, len(WELLS)) for n in range(1, len(WELLS) + 1)]
        assert {p.label for p in heard} == set(WELLS)
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


def test_thread_pools_and_workers_stay_within_the_processors_given(bodies: str, workspace: Workspace) -> None:
    # Threads that could be at work are counted as the kernel shows them, while the wells use every pool.
    request = tmp_request(workspace)
    program = (
        "import sys\n"
        "from morphseq_dagster.engine.contract.step import StepRequest, StepSpec\n"
        "from morphseq_dagster.engine.contract.crew import employing, limit_threads\n"
        "from morphseq_dagster.engine.executors.allocation import Allocation\n"
        "spec = StepSpec('letters', 1, sys.argv[1], (), '', 'toy')\n"
        "allocation = Allocation(cpus=int(sys.argv[2]))\n"
        "limit_threads(allocation.cpus)\n"
        "with employing(allocation.crew(spec)):\n"
        "    spec.load()(StepRequest.model_validate_json(open(sys.argv[3], 'rb').read()))\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for cpus in (1, 3):
        command = [sys.executable, "-c", program, f"{bodies}:busy", str(cpus), str(request)]
        most_threads = most_workers = 0
        with subprocess.Popen(command, env=variables) as runner:
            while runner.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    workers = workers_of(runner.pid)
                    computing = workers or [psutil.Process(runner.pid)]
                    most_workers = max(most_workers, len(workers))
                    # Alone, or the workers: whoever employs some waits for them meanwhile.
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


def test_worker_gets_one_gpu_in_turn_and_its_share_of_threads(bodies: str, workspace: Workspace) -> None:
    left = run_body(workspace, f"{bodies}:surroundings", Allocation(cpus=4, gpus=("3", "GPU-5")))
    seen = {payload.data["pid"]: payload.data["gpu"] for payload in left.values()}
    assert len(seen) == 4
    assert sorted(seen.values()) == ["3", "3", "GPU-5", "GPU-5"]
    assert {payload.data["threads"] for payload in left.values()} == {1}


def test_worker_without_gpus_sees_what_its_employer_sees(
    bodies: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    left = run_body(workspace, f"{bodies}:surroundings", Allocation(cpus=2))
    assert {payload.data["gpu"] for payload in left.values()} == {""}


def test_words_of_native_code_are_no_answers(
    bodies: str, workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    run_body(workspace, f"{bodies}:chatty", Allocation(cpus=2))
    said = capfd.readouterr()
    assert said.err.count("words of a library") == 8
    assert "words" not in said.out


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
            lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id=f"r{cpus}", force=True) as session,
            pytest.raises(TransientError, match="the process was ended by SIGKILL"),
        ):
            run_locked(session, spec=spec, place=SubprocessExecutor(pipeline=TOY, cpus=cpus))
    failure = read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT))
    assert failure is not None
    assert failure.tries == 2, "each end is counted once"


def test_worker_that_sees_other_inputs_than_its_employer_refuses(workspace: Workspace) -> None:
    context = StepContext(toy_request(workspace), artifacts=TOY_PIPELINE.artifacts)
    crew = Crew(body="morphseq_dagster.testing.toy:run_letters", size=2, cpus=2)
    tasks = [WellTask("A01", "another word"), WellTask("A02", "fin")]
    with employing(crew), pytest.raises(PermanentError, match="inputs that the step began with"):
        map_wells(context, tasks=tasks, compute=_never, restore=lambda _: None, max_failed_share=1.0)


def _never(task: WellTask) -> WellPayload:
    raise AssertionError(f"{task.well} was computed here")


def start_runner(workspace: Workspace) -> subprocess.Popen[bytes]:
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text("[letters]\nslow_s = 60\n")
    command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(tmp_request(workspace))]
    return subprocess.Popen([*command, "--pipeline", TOY, "--cpus", "3"], stderr=subprocess.PIPE)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_no_worker_outlives_its_employer(workspace: Workspace, sent: signal.Signals) -> None:
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
    for space, place in ((workspace, LocalExecutor(cpus=2)), (other, SubprocessExecutor(pipeline=TOY, cpus=2))):
        with lock_step(spec, workspace=space, experiment=EXPERIMENT, run_id="r") as session:
            finish(space.layout, outcome=run_locked(session, spec=spec, place=place))
    assert published(other) == published(workspace)


def test_checkpoint_of_a_worker_is_one_of_this_process(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={**dict.fromkeys(WELLS, "fail"), "A01": "fish", "A02": "fin"})
    with pytest.raises(PermanentError, match="wells to fail"):
        run_letters(workspace, 2)
    folder = workspace.layout.checkpoints("letters", experiment=EXPERIMENT) / "A01"
    key = json.loads((folder / "checkpoint.json").read_bytes())["key"]
    assert load_checkpoint(folder, key=key) is not None
