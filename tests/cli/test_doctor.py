from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.cli.checks import (
    MUCH_HISTORY,
    check_clock,
    check_data_root,
    check_home,
    check_installation,
    find_file_system,
)
from morphseq_dagster.cli.dead_runs import find_dead_runs
from morphseq_dagster.cli.launch import describe_process
from morphseq_dagster.engine.storage.atomic_io import temporary_beside
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace

A = "20240101"


def test_healthy_machine_has_nothing_wrong(say: Callable, add: Callable) -> None:
    add(A)
    say("pipeline")
    said = say("doctor")
    assert said.code == 0, said.out
    assert said.out.splitlines()[-1] == "nothing wrong"
    assert "PROBLEM" not in said.out


def test_doctor_without_fix_writes_nothing(say: Callable, add: Callable, listing: Callable) -> None:
    add(A)
    say("pipeline")
    before = listing()
    assert say("doctor").code == 0
    assert listing() == before


def dead_process() -> int:
    """Number of a process that has just ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


def test_leavings_of_dead_processes_are_found_and_fixed(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    say("pipeline")
    claim = workspace.layout.lock("letters", experiment=A)
    with hold_lock(claim, run_id="x"):
        text = claim.read_text()
    claim.write_text(json.dumps(json.loads(text) | {"pid": dead_process()}))
    name = temporary_beside(workspace.output("summary", experiment=A)).name
    orphan = workspace.output("summary", experiment=A).with_name(
        name.replace(f".{os.getpid()}.", f".{dead_process()}.")
    )
    orphan.write_text("half")
    journal = workspace.layout.journal("lengths", experiment=A)
    values = {"step": "lengths", "experiment": A, "primary": "tables/lengths_20240101.csv", "moves": []}
    journal.write_text(json.dumps(values))

    said = say("doctor")
    assert said.code == 1
    assert f"PROBLEM  {A}.letters is claimed by" in said.out
    assert f"PROBLEM  the publication of {A}.lengths was cut off" in said.out
    assert "PROBLEM  1 temporaries of dead processes" in said.out
    assert said.out.count("-> morphseq doctor --fix") == 3
    assert orphan.exists(), "looking mends nothing"

    said = say("doctor", "--fix")
    assert said.code == 0, said.out
    assert said.out.count("fixed") == 3
    assert [path.exists() for path in (orphan, claim, journal)] == [False, False, False]


def test_living_work_is_left_alone(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    claim = workspace.layout.lock("letters", experiment=A)
    with hold_lock(claim, run_id="x"):
        temporary = temporary_beside(workspace.output("summary", experiment=A))
        temporary.parent.mkdir(parents=True)
        temporary.write_text("half")
        said = say("doctor", "--fix")
        assert (claim.exists(), temporary.exists()) == (True, True)
    assert said.code == 0
    assert f"note     {A}.letters is at work" in said.out


def test_damaged_claim_is_named_with_its_remedy(say: Callable, workspace: Workspace) -> None:
    claim = workspace.layout.lock("letters", experiment=A)
    claim.parent.mkdir(parents=True)
    claim.write_text("?")
    said = say("doctor", "--fix")
    assert said.code == 1
    assert str(claim) in said.out
    assert claim.exists()


def test_broken_recipe_is_found(say: Callable, workspace: Workspace) -> None:
    recipe = workspace.layout.recipes("default")[0]
    recipe.parent.mkdir(parents=True)
    recipe.write_text("[nothing]\n")
    said = say("doctor")
    assert said.code == 1
    assert "unknown section [nothing]" in said.out


def test_killed_command_is_found_ended_and_resumed(
    say: Callable, add: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    add(A, {f"A{number:02d}": "fish" for number in range(1, 9)})
    recipe = workspace.layout.recipes(A)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nslow_s = 0.5\n")
    command = [sys.executable, "-c", "from morphseq_dagster.cli import main; main(['pipeline'])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        checkpoints = workspace.layout.checkpoints("letters", experiment=A)
        while child.poll() is None and len(list(checkpoints.glob("A0*"))) < 3:
            time.sleep(0.05)
        assert find_dead_runs(instance) == (), "a run at work is not dead"
        child.send_signal(signal.SIGKILL)
        child.wait()

    (run,) = find_dead_runs(instance)
    said = say("doctor")
    assert said.code == 1
    assert f"run {run.run_id} ({A}) is at work, but its process is gone" in said.out
    assert say("doctor", "--fix").code == 0
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELED

    done = say("pipeline")
    assert done.code == 0, done.err
    assert workspace.output("summary", experiment=A).is_file()


@pytest.mark.parametrize(
    ("tag", "dead"),
    [
        (describe_process(), False),
        (f"{describe_process()}0", True),
        (f"other-host:{dead_process()}:1", False),
    ],
    # Numbers of processes in the names would differ between the workers of one test run.
    ids=["alive", "number used again", "other host"],
)
def test_run_is_dead_only_by_proof(instance: dg.DagsterInstance, tag: str, dead: bool) -> None:
    @dg.job
    def nothing() -> None:
        pass

    instance.create_run_for_job(nothing, tags={"morphseq/process": tag}, status=dg.DagsterRunStatus.STARTED)
    assert bool(find_dead_runs(instance)) is dead


def test_data_root_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    (finding,) = check_data_root(tmp_path / "gone")
    assert finding.level == "problem"
    assert "mkdir -p" in finding.command


def test_home_is_judged(tmp_path: Path) -> None:
    assert [finding.level for finding in check_home(None)] == ["note"]
    assert "no dagster.yaml" in next(check_home(tmp_path)).text
    (tmp_path / "dagster.yaml").touch()
    assert [finding.level for finding in check_home(tmp_path)] == ["ok"]


def test_large_history_is_told_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    (tmp_path / "history").mkdir()
    os.truncate(os.open(tmp_path / "history" / "runs.db", os.O_CREAT | os.O_WRONLY), MUCH_HISTORY + 1)
    note = list(check_home(tmp_path))[-1]
    assert (note.level, "2.0 GiB" in note.text) == ("note", True)


def test_disk_whose_clock_differs_is_a_problem_and_one_that_agrees_is_none(tmp_path: Path) -> None:
    assert list(check_clock(tmp_path)) == []
    (found,) = check_clock(tmp_path, now=lambda: time.time() - 60)
    assert (found.level, "60 s ahead" in found.text) == ("problem", True)


def test_file_system_is_that_of_the_longest_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("a / ext4 rw 0 0\nb /lab nfs4 rw 0 0\nc /lab\\040two xfs rw 0 0\n")
    kinds = {
        path: find_file_system(Path(path), mounts=mounts) for path in ("/home", "/lab/x", "/lab two/x", "/laboratory")
    }
    assert kinds == {"/home": "ext4", "/lab/x": "nfs4", "/lab two/x": "xfs", "/laboratory": "ext4"}
    assert find_file_system(Path("/home"), mounts=tmp_path / "none") == ""


def test_installation_of_this_environment_is_sound() -> None:
    assert [finding.level for finding in check_installation()] == ["ok", "ok"]


def test_wrong_home_is_a_problem_and_no_traceback(say: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "somewhere/relative")
    said = say("doctor")
    assert said.code == 1
    assert "somewhere/relative" in said.out
