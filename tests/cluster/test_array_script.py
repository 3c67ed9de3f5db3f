"""Text of array scripts: options of either scheduler, the list, refusal of what a script cannot carry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.cluster.array_script import ArrayScheduler, ArrayScript, parse_list, write_array_script
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Environment, Resources

NAMES = ("20240101", "20240102_a", "20240103-b")


def script(scheduler: str, **changes: object) -> str:
    values: dict[str, object] = {
        "experiments": NAMES,
        "action": "e2e",
        "python": "/env/bin/python",
        "data_root": "/data/root",
        "logs": "/data/root/.morphseq/array_logs",
    }
    array = ArrayScript(**{**values, **changes})  # type: ignore[arg-type]
    return write_array_script(array, scheduler=ArrayScheduler(scheduler))


def options(text: str, mark: str) -> list[str]:
    return [line.removeprefix(mark).strip() for line in text.splitlines() if line.startswith(mark)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("20240101\n20240102\n", ("20240101", "20240102")),
        ("# ours\n\n  20240101  \n\t\n20240102 # again\n20240101\n", ("20240101", "20240102")),
        ("20240101\r\n\r\n20240102\r\n", ("20240101", "20240102")),
        ("\ufeff20240101", ("20240101",)),
        ("", ()),
        ("\n# nothing\n  \r\n", ()),
    ],
)
def test_list_tolerates_blank_lines_comments_and_foreign_line_ends(text: str, names: tuple[str, ...]) -> None:
    assert parse_list(text) == names


@given(st.lists(st.from_regex(r"\A20[0-9]{6}(_[a-z0-9]{1,5})?\Z"), unique=True), st.sampled_from(["\n", "\r\n"]))
def test_list_keeps_every_name_in_its_order(names: list[str], end: str) -> None:
    text = "".join(f"  {name} # note{end}{end}# {name}{end}" for name in names)
    assert parse_list(text) == tuple(names)


def test_slurm_script_asks_for_what_is_set() -> None:
    needs = Resources(partition="gpu", account="lab", cpus=4, memory="16G", gpus="a100:1", time="4:00:00")
    assert options(script("slurm", resources=needs, at_once=2), "#SBATCH ") == [
        "--job-name=morphseq",
        "--array=1-3%2",
        "--output=/data/root/.morphseq/array_logs/%A_%a.log",
        "--open-mode=append",
        "--export=NONE",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=4",
        "--partition=gpu",
        "--account=lab",
        "--mem=16G",
        "--gres=gpu:a100:1",
        "--time=4:00:00",
    ]


def test_sge_script_counts_memory_per_slot_and_leaves_slurms_names_out() -> None:
    needs = Resources(partition="gpu", qos="high", cpus=4, memory="10G", gpus="1", time="1-02:30:05")
    text = script("sge", resources=needs, at_once=3, queue="long.q", slots="serial", gpu_request="gpgpu=TRUE,cuda=1")
    assert options(text, "#$ ") == [
        "-S /bin/bash",
        "-N morphseq",
        "-t 1-3",
        "-j y",
        "-o /data/root/.morphseq/array_logs",
        "-tc 3",
        "-q long.q",
        "-pe serial 4",
        "-l h_vmem=2560M",
        "-l h_rt=26:30:05",
        "-l gpgpu=TRUE,cuda=1",
    ]
    assert "high" not in text


def test_sge_script_for_gpus_needs_the_sites_words() -> None:
    with pytest.raises(PermanentError, match="--gpu-request"):
        script("sge", resources=Resources(gpus="1"))


@pytest.mark.parametrize(
    "change",
    [
        {"experiments": ("20240101", "$(id)")},
        {"experiments": ("a b",)},
        {"experiments": ("a\nb",)},
        {"experiments": ("../x",)},
        {"experiments": ("20240101", "20240101")},
        {"data_root": "/data/my root"},
        {"data_root": "/data/$HOME"},
        {"data_root": "relative"},
        {"python": "/env/bin/python;id"},
        {"logs": "/data/`id`"},
        {"weights": {"sam2": '/w"x'}},
        {"action": "e2e;id"},
        {"queue": "a b"},
        {"slots": "smp\n#$ -v X"},
        {"gpu_request": "gpu=1 -v X"},
        {"pipeline": "m:R;id"},
        {"at_once": 0},
        {"experiments": ()},
    ],
)
def test_what_a_script_cannot_carry_is_refused(change: dict[str, object]) -> None:
    for scheduler in ("slurm", "sge"):
        with pytest.raises(PermanentError):
            script(scheduler, **change)


@pytest.mark.parametrize("scheduler", ["slurm", "sge"])
def test_script_is_plain_shell_and_the_same_each_time(scheduler: str) -> None:
    more = {
        "environment": Environment(preamble="/site/modules.sh", variables={"A": "b c"}),
        "weights": {"sam2": "/weights/sam2.pt"},
    }
    text = script(scheduler, **more)
    assert text == script(scheduler, **more)
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("task", ["", "undefined", "0", "4", "-1", "01", "1; id", "99999999999999999999"])
@pytest.mark.parametrize(("scheduler", "variable"), [("slurm", "SLURM_ARRAY_TASK_ID"), ("sge", "SGE_TASK_ID")])
def test_number_that_is_no_task_ends_before_anything_runs(
    tmp_path: Path, scheduler: str, variable: str, task: str
) -> None:
    text = script(scheduler, python=str(tmp_path / "python"))
    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["bash"], input=text, env={"PATH": "/usr/bin:/bin", variable: task}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 64, done.stderr
    assert not (tmp_path / "ran").exists()


def test_task_starts_its_own_experiment_with_listed_variables_in_an_empty_folder(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nenv >{tmp_path}/env\necho "$@" >{tmp_path}/args\nls -A >{tmp_path}/ls\nexit 7\n')
    python.chmod(0o755)
    preamble = tmp_path / "pre.sh"
    preamble.write_text("export PATH=$PATH:/site\n")
    text = script(
        "sge",
        python=str(python),
        environment=Environment(preamble=str(preamble), variables={"MORPHSEQ_X": "a b"}),
        weights={"sam2": "/w/sam2.pt"},
    )
    given = {"PATH": "/usr/bin:/bin", "SGE_TASK_ID": "2", "NSLOTS": "3", "DAGSTER_HOME": "/home/me", "SECRET": "1"}
    done = subprocess.run(
        ["bash"], input=text, env={**given, "TMPDIR": str(tmp_path)}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 7, done.stderr
    words = (tmp_path / "args").read_text().split()
    assert words[words.index("pipeline") :] == [
        *("pipeline", "e2e", "--data-root", "/data/root", "--experiments", "20240102_a"),
    ]
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert seen["PATH"] == "/usr/bin:/bin:/site"
    assert (seen["MORPHSEQ_CPUS"], seen["OMP_NUM_THREADS"], seen["MORPHSEQ_X"]) == ("3", "3", "a b")
    assert (seen["MORPHSEQ_PLACE"], seen["MORPHSEQ_WEIGHTS"]) == ("process", '{"sam2": "/w/sam2.pt"}')
    assert not {"DAGSTER_HOME", "SECRET", "SGE_TASK_ID"} & seen.keys()
    assert (tmp_path / "ls").read_text() == ""
    assert {p.name for p in tmp_path.iterdir()} == {"python", "pre.sh", "env", "args", "ls"}, "its folder is gone"
