"""`morphseq doctor` of a cluster, a real one: all is fine, and each thing that can be wrong by its own finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.cli.checks import SKEW_S, CheckResult
from morphseq_dagster.cli.cluster_checks import check_cluster, judge_environment, judge_skew, named_partitions
from morphseq_dagster.cli.cluster_trial import try_cluster
from morphseq_dagster.engine.executors.environment import describe_environment
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.slurm import SlurmSettings
from tests.support.slurm_cluster import LocalCluster, start_cluster
from tests.support.slurm_gate import Gate

TWO = {"steps": {"letters": {"partition": "gpu", "gpus": 1}}, "resources": {"partition": "cpu", "memory": "600M"}}


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """A data root in which the checks leave nothing behind."""
    (tmp_path / "data").mkdir()
    yield Layout(tmp_path / "data")
    assert [path for path in (tmp_path / "data").rglob("*") if path.name != ".morphseq"] == []


def problems(findings: Iterator[CheckResult]) -> list[CheckResult]:
    found = [finding for finding in findings if finding.level == "problem"]
    assert all(finding.command for finding in found), "each says what to do"
    return found


@pytest.mark.slurm
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_good_cluster_has_no_problems(cluster: LocalCluster, layout: Layout, transport: str) -> None:
    found = list(check_cluster(cluster.settings(transport, **TWO), layout=layout))
    text = "\n".join(finding.text for finding in found)
    assert problems(iter(found)) == []
    assert f"answer ({transport}): slurm" in text
    assert "partitions in use: cpu (limit infinite), gpu (limit infinite)" in text
    assert "accounting answers" in text
    assert "the login node's clock agrees" in text
    assert "are one folder" in text
    assert "GiB free there" in text
    assert "environment on the login node" in text


@pytest.mark.slurm
def test_verb_looks_at_the_cluster_alone_or_beside_the_machine(
    cluster: LocalCluster, workspace: Workspace, say: Callable[..., Any]
) -> None:
    assert say("doctor", "--slurm").code == 2, "no cluster is named"
    assert say("doctor", "--live").code == 2
    text = '[places.slurm]\nenvironment = "any"\n[places.slurm.resources]\npartition = "cpu"\n'
    (workspace.data_root.parent / "morphseq.toml").write_text(text)
    assert say("doctor", "--slurm", "--fix").code == 2
    said = say("doctor", "--slurm")
    assert (said.code, "nothing wrong" in said.out) == (0, True), said.out
    assert "OpenCV" not in said.out
    whole = say("doctor").out
    assert "OpenCV" in whole
    assert "the cluster's commands answer" in whole
    live = say("doctor", "--slurm", "--live")
    assert live.code == 0, live.out
    assert "partition cpu: job" in live.out


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"python": "/no/such/python"}, "/no/such/python"),
        ({"python": "/usr/bin/python3"}, "/usr/bin/python3 there cannot import this package"),
        ({"data_root": "/elsewhere"}, "is not in /elsewhere there"),
        (
            {"resources": {"partition": "cpu,night"}},
            "partition night (places.slurm.resources.partition) is none of cpu",
        ),
        ({"commands": "/no/such/folder"}, "sbatch: no such program"),
        ({"preamble": "/no/such/preamble.sh"}, "/no/such/preamble.sh"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_setting_is_one_finding_that_names_it(
    cluster: LocalCluster, layout: Layout, wrong: dict[str, object], said: str
) -> None:
    (finding,) = problems(check_cluster(cluster.settings(**wrong), layout=layout))
    assert said in finding.text
    assert "places.slurm" in finding.command


@pytest.mark.slurm
def test_closed_door_is_told(cluster: LocalCluster, layout: Layout) -> None:
    settings = cluster.settings("ssh")
    assert settings.ssh is not None
    stranger = settings.model_copy(update={"ssh": replace(settings.ssh, key="/no/such/key")})
    (finding,) = problems(check_cluster(stranger, layout=layout))
    assert "ermission denied" in finding.text


@pytest.mark.slurm
def test_controller_that_is_away_is_told_and_the_rest_is_looked_at(cluster: LocalCluster, layout: Layout) -> None:
    cluster.stop("slurmctld")
    try:
        found = list(check_cluster(cluster.settings(), layout=layout))
    finally:
        cluster.start("slurmctld")
    (finding,) = problems(iter(found))
    assert "the controller does not answer" in finding.text
    assert any("are one folder" in other.text for other in found)


@pytest.mark.slurm
def test_cluster_without_accounting_is_told(shared: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    other = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", accounting="0")
    monkeypatch.setenv("SLURM_CONF", "")
    found = list(check_cluster(other.settings(), layout=layout))
    assert problems(iter(found)) == []
    assert [finding.text for finding in found if finding.level == "note" and "no accounting" in finding.text]


@pytest.mark.slurm
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_trial_of_each_partition_tells_what_its_node_sees(
    cluster: LocalCluster, layout: Layout, transport: str
) -> None:
    found = list(try_cluster(cluster.settings(transport, **TWO), layout=layout))
    assert problems(iter(found)) == []
    text = "\n".join(finding.text for finding in found)
    for partition in ("cpu", "gpu"):
        assert f"partition {partition}: job " in text
        assert text.count(f"partition {partition}: ") == 3
    assert text.count("and ran on n") == 2
    assert text.count("sees the data root") == 2
    assert text.count(" agrees with this host's") == 2
    assert text.count("environment on ") == 2


@pytest.mark.slurm
def test_trial_tells_of_wrong_settings_and_leaves_nothing(cluster: LocalCluster, layout: Layout) -> None:
    (finding,) = problems(try_cluster(cluster.settings(resources={"partition": "night"}), layout=layout))
    assert "partition night: rejected: " in finding.text
    (finding,) = problems(try_cluster(cluster.settings(python="/no/such/python"), layout=layout))
    assert "ended as config" in finding.text
    assert "places.slurm.python" in finding.command


@pytest.mark.slurm
def test_trial_that_does_not_begin_within_its_limit_is_cancelled(
    cluster: LocalCluster, layout: Layout, tmp_path: Path
) -> None:
    (tmp_path / "commands").mkdir()
    gate = Gate(cluster, tmp_path / "commands")
    before = set(gate.jobs())
    gate.close()
    try:
        (finding,) = problems(try_cluster(cluster.settings(), layout=layout, limit_s=3))
    finally:
        gate.open()
    assert "is PENDING (PartitionDown) after 3 s; it is cancelled" in finding.text
    assert set(gate.jobs()) <= before


# without a cluster


def test_partitions_are_named_with_the_setting_that_names_them_first() -> None:
    settings = SlurmSettings.model_validate(
        {
            "resources": {"partition": "cpu,long"},
            "steps": {"latents": {"partition": "gpu"}, "snips": {"partition": "cpu"}},
            "experiments": {"20240418": {"steps": {"latents": {"partition": "big"}}}},
        }
    )
    assert named_partitions(settings) == {
        "cpu": "places.slurm.resources.partition",
        "long": "places.slurm.resources.partition",
        "gpu": "places.slurm.steps.latents.partition",
        "big": "places.slurm.experiments.20240418.steps.latents.partition",
    }


def test_clocks_that_differ_are_a_problem_from_some_seconds_on() -> None:
    assert judge_skew(0.0, whose="its clock").text == "its clock agrees with this host's"
    assert judge_skew(-2.0, whose="its clock").level == "ok"
    late = judge_skew(-SKEW_S - 1, whose="its clock")
    assert (late.level, late.text) == ("problem", "its clock is 6.0 s behind this host's")
    assert "ahead of" in judge_skew(SKEW_S + 1, whose="its clock").text


def test_other_packages_or_code_are_named() -> None:
    here = describe_environment()
    assert judge_environment(here, expected=here, where="there", policy="same").level == "ok"
    other = here.model_copy(update={"code": "0" * 64, "packages": {**here.packages, "numpy": "0.1"}})
    finding = judge_environment(other, expected=here, where="there", policy="same")
    assert finding.level == "problem"
    assert f"numpy {here.packages['numpy']} expected, 0.1 found" in finding.text
    assert "code " in finding.text
    unrecorded = judge_environment(here, expected=None, where="there", policy="recorded")
    assert (unrecorded.level, "--record" in unrecorded.command) == ("note", True)
