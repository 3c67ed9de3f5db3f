"""The environment of jobs: what is described, what counts as a difference, and that a job refuses one by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from morphseq_dagster.cli import main
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.engine.executors.environment import (
    EnvironmentDescription,
    compare_environments,
    describe_environment,
    expected_file,
    hash_code,
    read_recorded,
    read_stored,
    record_environment,
    refuse_difference,
    store_description,
)
from morphseq_dagster.engine.executors.protocol import Committed
from morphseq_dagster.engine.executors.runner_outcome import read_outcome
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import Record, encode, read_failure
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.testing.chain import TOY
from tests.support.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"
NUMPY = metadata.version("numpy")


def describe(**changes: object) -> EnvironmentDescription:
    base = EnvironmentDescription(python="3.11.7", packages={"numpy": "2.4.6", "pandas": "3.1.1"}, models={}, code="c0")
    return base.model_copy(update=changes)


def other_numpy(layout_of: Workspace) -> Path:
    """Store a description that differs from this environment by one package."""
    here = describe_environment()
    # Where other versions are installed other names lie beside them.
    other = here.model_copy(update={"packages": {**here.packages, "numpy": "0.0.1"}, "glance": "0" * 64})
    return store_description(layout_of.layout, description=other)


def test_what_results_need_is_described_and_tools_are_not() -> None:
    packages = describe_environment().packages
    assert packages["numpy"] == NUMPY
    assert packages["opencv-python"] == metadata.version("opencv-python")
    assert packages["python-dateutil"] == metadata.version("python-dateutil"), "pandas needs it"
    assert not [name for name in packages if name.startswith("dagster")]
    assert not {"pytest", "ruff", "mypy", "sqlalchemy", "morphseq-dagster"} & packages.keys()
    assert list(packages) == sorted(packages)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"python": "3.11.9"}, []),
        ({"python": "3.12.1"}, ["Python 3.11.7 expected, 3.12.1 found"]),
        ({"packages": {"numpy": "2.4.5", "pandas": "3.1.1"}}, ["numpy 2.4.6 expected, 2.4.5 found"]),
        ({"packages": {"numpy": "2.4.6+local", "pandas": "3.1.1"}}, []),
        ({"packages": {"numpy": "2.4.6"}}, ["pandas 3.1.1 expected, none found"]),
        ({"packages": {"numpy": "2.4.6", "pandas": "3.1.1", "six": "1"}}, []),
        ({"code": "c1"}, ["code c0 of morphseq_dagster expected, c1 found"]),
        (
            {"code": "c1", "packages": {"numpy": "1", "pandas": "2"}},
            [
                "numpy 2.4.6 expected, 1 found",
                "pandas 3.1.1 expected, 2 found",
                "code c0 of morphseq_dagster expected, c1 found",
            ],
        ),
    ],
)
def test_differences_are_named_all_at_once(change: dict[str, object], told: list[str]) -> None:
    assert compare_environments(describe(), found=describe(**change)) == told


def test_installed_package_that_older_metadata_do_not_name_as_needed_is_looked_up() -> None:
    older = describe(packages={"pandas": "3.1.1"})
    assert compare_environments(describe(), found=older, look={"numpy": "2.4.6"}.get) == []
    assert compare_environments(describe(), found=older, look={"numpy": "2.4.5"}.get) == [
        "numpy 2.4.6 expected, 2.4.5 found"
    ]


def test_packages_of_neural_backends_count_where_both_sides_have_them() -> None:
    with_torch = describe(models={"torch": "2.13.0+cu130"})
    assert compare_environments(describe(), found=with_torch) == []
    assert compare_environments(with_torch, found=describe()) == []
    assert compare_environments(with_torch, found=describe(models={"torch": "2.13.0+cpu"})) == []
    assert compare_environments(with_torch, found=describe(models={"torch": "2.14.0"})) == [
        "torch 2.13.0+cu130 expected, 2.14.0 found"
    ]


def test_code_is_what_a_job_may_run(tmp_path: Path) -> None:
    files = {"steps/wells.py": "a = 1\n", "recipes/lab.toml": "x = 1\n", "cli/app.py": "", "testing/toy.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = hash_code(tmp_path)
    (tmp_path / "cli" / "app.py").write_text("b = 2\n")
    (tmp_path / "testing" / "toy.py").unlink()
    (tmp_path / "steps" / "wells.cpython-311.pyc").write_bytes(b"compiled")
    assert hash_code(tmp_path) == before
    (tmp_path / "recipes" / "lab.toml").write_text("x = 2\n")
    changed = hash_code(tmp_path)
    assert changed != before
    (tmp_path / "steps" / "wells.py").rename(tmp_path / "steps" / "well.py")
    assert hash_code(tmp_path) not in (before, changed)


def test_no_job_imports_what_the_hash_of_the_code_leaves_out() -> None:
    program = (
        "import sys, json\n"
        "from morphseq_dagster.engine.executors import runner\n"
        "from morphseq_dagster.engine.pipeline import load_pipeline\n"
        "pipeline = load_pipeline('morphseq_dagster.morphseq.pipeline:MORPHSEQ')\n"
        "[spec.load() for spec in pipeline.steps]\n"
        "print(json.dumps([name.split('.')[1] for name in sys.modules if name.startswith('morphseq_dagster.')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    from morphseq_dagster.engine.executors import environment

    left_out = {name.removesuffix(".py") for name in environment._NOT_IN_JOBS}
    rooms = set(json.loads(done.stdout))
    assert "morphseq" in rooms
    assert not rooms & left_out


def test_stored_description_is_found_again_and_a_damaged_one_refused(workspace: Workspace) -> None:
    layout = workspace.layout
    path = store_description(layout)
    assert read_stored(layout, digest=describe_environment().hash) == describe_environment()
    refuse_difference(path)
    other = other_numpy(workspace)
    with pytest.raises(PermanentError, match=f"numpy 0.0.1 expected, {NUMPY} found"):
        refuse_difference(other)
    other.write_bytes(path.read_bytes())
    with pytest.raises(PermanentError, match="another content"):
        refuse_difference(other)
    with pytest.raises(PermanentError, match="no such file"):
        refuse_difference(other.with_name(f"{'0' * 64}.json"))


def test_policy_chooses_the_description_that_jobs_must_meet(workspace: Workspace) -> None:
    layout = workspace.layout
    assert expected_file("any", layout=layout) is None
    assert expected_file("same", layout=layout) == f"{describe_environment().hash}.json"
    with pytest.raises(PermanentError, match="morphseq environment --record"):
        expected_file("recorded", layout=layout)
    recorded = record_environment(layout)
    assert read_recorded(layout) == recorded
    assert expected_file("recorded", layout=layout) == f"{recorded.hash}.json"


def test_runner_refuses_another_environment_before_any_work(workspace: Workspace, tmp_path: Path) -> None:
    request = workspace.request(workspace.pipeline.spec("letters"), experiment=EXPERIMENT, run_id="hand")
    write_durably(tmp_path / "request.json", encode(request))
    command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(tmp_path / "request.json")]
    # A pipeline that cannot be imported: nothing of the step is touched before.
    command += ["--pipeline", "no_such_module:MORPHSEQ", "--outcome", str(tmp_path / "outcome.json")]
    command += ["--environment", str(other_numpy(workspace))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    error = read_outcome(tmp_path / "outcome.json").error
    assert error is not None
    assert error.kind == "permanent"
    assert f"numpy 0.0.1 expected, {NUMPY} found" in error.found.split("; ")
    assert error.message in done.stderr
    assert not workspace.output("letters", experiment=EXPERIMENT).exists()
    assert read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT)) is not None


def test_verb_shows_records_and_compares(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--data-root", str(workspace.data_root)]
    assert main(["environment", *root]) == 0
    assert "no environment of a cluster is recorded" in capsys.readouterr().out
    assert main(["environment", "--record", *root]) == 0
    assert main(["environment", "--verbose", *root]) == 0
    said = capsys.readouterr().out
    assert f"numpy=={NUMPY}" in said
    assert f"the cluster's: {describe_environment().hash[:12]}" in said
    assert "differs" not in said
    pointer = workspace.layout.environments / "cluster.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_bytes()), "hash": other_numpy(workspace).stem}))
    assert main(["environment", *root]) == 1
    assert f"differs: numpy 0.0.1 expected, {NUMPY} found" in capsys.readouterr().out


# on a cluster


def run_first(workspace: Workspace, cluster: LocalCluster, **settings: object) -> tuple[Committed, Record]:
    spec = workspace.pipeline.steps[0]
    place = SlurmExecutor(cluster.settings(**settings), pipeline=TOY)
    with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="run", executor=place) as session:
        outcome = session.run()
        assert isinstance(outcome, Committed)
        return outcome, finish(workspace.layout, outcome=outcome)


@pytest.mark.slurm
def test_job_in_another_environment_is_refused_once_by_name(cluster: LocalCluster, workspace: Workspace) -> None:
    with pytest.raises(PermanentError, match="morphseq environment --record"):
        run_first(workspace, cluster, environment="recorded")
    assert not list(workspace.layout.jobs.glob("*/*/*")), "nothing was sent"
    record_environment(workspace.layout)
    pointer = workspace.layout.environments / "cluster.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_bytes()), "hash": other_numpy(workspace).stem}))
    with pytest.raises(MorphseqError, match=f"numpy 0.0.1 expected, {NUMPY} found") as refused:
        run_first(workspace, cluster, environment="recorded")
    assert isinstance(refused.value, PermanentError)
    (key,) = workspace.layout.jobs.glob("*/*/*")
    assert len(JobRoot(workspace.layout.jobs).attempts(key.parts[-3:-1], key=key.name)) == 1
    failure = read_failure(workspace.layout, primary=workspace.output("letters", experiment=EXPERIMENT))
    assert failure is not None
    assert failure.tries == 1
    _, record = run_first(workspace, cluster, environment="any")
    assert record.place == "slurm"


@pytest.mark.slurm
def test_job_knows_environment_and_preamble_but_nothing_of_the_submitters(
    cluster: LocalCluster, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITTERS_SECRET", "leaked")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen, preamble, python = tmp_path / "seen", tmp_path / "preamble.sh", tmp_path / "python"
    preamble.write_text(f"env >{seen}.preamble\nexport FROM_PREAMBLE=1\n")
    python.write_text(f'#!/bin/sh\nenv >{seen}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    outcome, record = run_first(
        workspace,
        cluster,
        environment="same",
        preamble=str(preamble),
        python=str(python),
        variables={"MORPHSEQ_CPUS": "1"},
    )
    asked = (Path(str(outcome.facts["log"])).parent / "job.sh").read_text()
    assert f"--environment {workspace.layout.environments}/{describe_environment().hash}.json" in asked
    variables = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert not {"SUBMITTERS_SECRET", "PYTHONPATH", "FROM_PREAMBLE"} & variables.keys()
    assert "SUBMITTERS_SECRET" not in Path(f"{seen}.preamble").read_text()
    assert variables["MORPHSEQ_CPUS"] == "1"
    assert "SLURM_JOB_ID" in variables
    assert os.environ["SUBMITTERS_SECRET"] == "leaked", "it was there to be leaked"
    assert outcome.facts["preamble"] == hash_bytes(preamble.read_bytes())
    assert outcome.facts["environment"] == record.environment
    assert len(record.environment) == 64
