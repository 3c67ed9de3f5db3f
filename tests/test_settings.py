"""Places in the machine settings: one name per step stays as it was; the section of the cluster is checked by value."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.request_job import make_job
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.local import LocalExecutor, SubprocessExecutor
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.resources.executors import make_executor
from morphseq_dagster.settings.machine import MachineSettings, load_settings
from morphseq_dagster.settings.slurm import SlurmSettings

FULL = """
place = "process"
[places]
sam2_tracks = "slurm"
letters = "subprocess"
[places.experiments.20240418]
letters = "slurm"
[places.slurm]
python = "/env/bin/python"
variables = { MORPHSEQ_THREADS = "4" }
[places.slurm.resources]
partition = "cpu"
time = 90
[places.slurm.steps.sam2_tracks]
gpus = 1
memory = "8G"
more_memory = false
[places.slurm.experiments.20240418.resources]
memory = "32G"
[places.slurm.experiments.20240418.steps.sam2_tracks]
gpus = "a100:2"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MORPHSEQ_PLACE", "MORPHSEQ_PLACES", "MORPHSEQ_DATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_without_a_cluster_are_as_they_were(here: Path) -> None:
    (here / "morphseq.toml").write_text('place = "subprocess"\n[places]\nletters = "process"\n')
    settings = load_settings()
    assert (settings.place_of("letters"), settings.place_of("other")) == ("process", "subprocess")
    assert settings.places.slurm is None


def test_narrowest_section_wins_value_by_value(here: Path) -> None:
    (here / "morphseq.toml").write_text(FULL)
    settings = load_settings()
    assert settings.place_of("letters", experiment="20240418") == "slurm"
    assert settings.place_of("letters", experiment="20240419") == "subprocess"
    assert settings.places.slurm is not None
    wide = settings.places.slurm.resources_of("sam2_tracks", experiment="20240419")
    narrow = settings.places.slurm.resources_of("sam2_tracks", experiment="20240418")
    assert wide.as_dict() == {"partition": "cpu", "time": "90", "gpus": "1", "memory": "8G", "cpus": 1}
    assert narrow.as_dict() == {"partition": "cpu", "time": "90", "gpus": "a100:2", "memory": "32G", "cpus": 1}
    assert settings.places.slurm.resources_of("letters", experiment="20240419").memory is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[places]\nletters = "moon"', "places.letters"),
        ('[places]\nletters = "slurm"', "places.slurm"),
        ("[places.slurm]\nnope = 1", "places.slurm.nope"),
        ('[places.slurm.resources]\npartition = "a; id"', "partition"),
        ('[places.slurm.steps.letters]\nmemory = "much"', "memory"),
        ('[places.slurm.experiments.20240418.steps.letters]\ntime = "soon"', "time"),
        ('[places.slurm.resources]\nreservation = "x"', "reservation"),
        ('[places.slurm]\npython = "/a b/python"', "a b"),
        ('[places.slurm]\npreamble = "$(id)"', "preamble"),
        ('[places.slurm.variables]\nA = "$(id)"', "A ="),
        ('[places.slurm]\ntransport = "ssh"', "ssh"),
        ('[places.slurm]\nssh = { host = "x" }', "ssh"),
        ('[places.slurm]\ntransport = "ssh"\nssh = { host = "-oProxyCommand=id" }', "host"),
        ('[places.slurm]\ntransport = "ssh"\nresource = "lab:slurm"', "resource"),
        ('[places.slurm]\ntransport = "dagster_slurm"', "resource"),
        ('[places.slurm]\ntransport = "dagster_slurm"\nresource = "lab:x"\nssh = { host = "x" }', "resource"),
        ('[places.slurm]\ntransport = "dagster_slurm"\nresource = "lab:x;id"', "resource"),
        ('[places.slurm]\ntransport = "dagster_slurm"\nssh = { host = "x" }', "ssh.user"),
        ('[places.slurm]\ntransport = "dagster_slurm"\nssh = { host = "x", user = "me", jump = "y" }', "ssh.jump"),
    ],
)
def test_wrong_values_are_refused_by_name_when_the_settings_are_read(here: Path, text: str, named: str) -> None:
    (here / "morphseq.toml").write_text(text)
    with pytest.raises(PermanentError) as caught:
        load_settings()
    assert named in str(caught.value)


def test_place_is_made_by_name_and_the_cluster_needs_its_section(tmp_path: Path) -> None:
    make = partial(make_executor, pipeline=PIPELINE, data_root=tmp_path)
    assert isinstance(make("process"), LocalExecutor)
    assert isinstance(make("subprocess"), SubprocessExecutor)
    assert isinstance(make("slurm", slurm=SlurmSettings()), SlurmExecutor)
    with pytest.raises(PermanentError, match=r"places\.slurm"):
        make("slurm")


def test_settings_survive_the_way_into_the_resource() -> None:
    from morphseq_dagster.resources.workspace import WorkspaceResource

    values = {"letters": "slurm", "slurm": {"python": "/x"}, "experiments": {"20240418": {"letters": "process"}}}
    resource = WorkspaceResource.from_settings(MachineSettings.model_validate({"places": values}), pipeline=PIPELINE)
    assert isinstance(resource.executor_of("letters"), SlurmExecutor)
    assert isinstance(resource.executor_of("letters", experiment="20240418"), LocalExecutor)


def test_job_of_a_request() -> None:
    request = StepRequest(
        experiment="20240418",
        step="letters",
        version=1,
        recipe={},
        inputs=(),
        output="x.csv",
        data_root="/here",
        run_id="r",
    )
    settings = SlurmSettings(data_root="/there", python="/env/bin/python", warn_s=30)
    job, forced = (
        make_job(settings, request=asked, pipeline="m:R")
        for asked in (request, request.model_copy(update={"force": True}))
    )
    assert job.group == ("letters", "20240418")
    assert job.key == request.key
    assert forced.key != request.key
    assert job.command[:5] == ("/env/bin/python", "-P", "-u", "-m", "morphseq_dagster.cluster.runner")
    sent = StepRequest.model_validate_json(job.request)
    assert (sent.data_root, sent.key) == ("/there", request.key)
