"""The example at the end of each verb's help, run as it stands on a data root with a finished experiment."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import morphseq_dagster
from morphseq_dagster.cli import main
from morphseq_dagster.cli.app import VERBS
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.morphseq.paths import SENTINELS, raw_folder
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root

TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"
FINISHED = "20250529_ctrl: nothing to do"
SAID = {
    "demo": "final table",
    "experiments": "1 found: 1 ready",
    "status": "1/1",
    "explain": "snips: fresh",
    "stale": "0 of 1 experiments have stale or missing steps",
    "pipeline": FINISHED,
    "materialize": "1 stand",
    "cohort": "cohort: 1 made",
    "reconcile": "no findings",
    "adopt": "18 recorded",
    "retire": "its partition would be removed",
    "jobs": "no jobs",
    "environment": "no environment of a cluster is recorded",
    "submit-script": "#SBATCH --array",
    "doctor": "nothing wrong",
    "recipe": "snips.",
}
Say = Callable[[str], str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a Dagster home."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(TEMPLATE, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.delenv("MORPHSEQ_PIPELINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example_of(verb: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    assert main([verb, "-h"]) == 0
    (line,) = re.findall(r"^  Example: morphseq (.+)$", capfd.readouterr().out, re.MULTILINE)
    found = shlex.split(line)
    assert found[0] == verb
    return found


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_example_does_what_it_promises(
    verb: str, home: Path, frames_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHSEQ_DATA_ROOT", str(frames_root))
    (raw_folder(open_data_root(frames_root).layout, "Frames", experiment=FRAMES_EXPERIMENT) / SENTINELS[0]).touch()
    (home / "experiments.txt").write_text(f"{FRAMES_EXPERIMENT}\n")
    arguments = example_of(verb, capfd)
    code = main(arguments)
    said = "".join(capfd.readouterr())
    assert code == 0, said
    assert SAID[verb] in said


def test_example_of_the_demo(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MORPHSEQ_DATA_ROOT", str(home / "root"))
    code = main(example_of("demo", capfd))
    said = "".join(capfd.readouterr())
    assert code == 0, said
    assert SAID["demo"] in said


def test_cohort_is_made_in_a_process_of_its_own(
    home: Path, frames_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHSEQ_PLACE", "subprocess")
    workspace = open_data_root(frames_root)
    code = main(["cohort", "--data-root", str(frames_root)])
    said = "".join(capfd.readouterr())
    assert code == 0, said
    record = read_record(workspace.layout, primary=workspace.output("cohort_final", experiment=COHORT))
    assert record is not None
    assert record.place == "subprocess"
    assert [entry.name for entry in record.inputs] == [FRAMES_EXPERIMENT]
