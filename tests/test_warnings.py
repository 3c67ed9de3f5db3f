"""Nothing that we do makes Dagster warn of its preview and beta features."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.experiments import FRAMES_EXPERIMENT

_STRICT = """
import sys, warnings
import dagster as dg
for kind in (dg.PreviewWarning, dg.BetaWarning, dg.SupersessionWarning, DeprecationWarning):
    warnings.filterwarnings("error", category=kind, module=r"dagster\\..*|dagster_shared\\..*|morphseq_dagster\\..*")
"""
_DEFINITIONS = """
from morphseq_dagster.build import build_definitions
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.settings.machine import load_settings
definitions = build_definitions(load_settings(), pipeline=PIPELINE)
definitions.get_repository_def().get_all_jobs()
with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions("experiment", [sys.argv[1]])
    job = definitions.resolve_job_def("report_staleness")
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    assert job.execute_in_process(instance=instance, run_config=quiet).success
"""
_VERB = """
from morphseq_dagster.cli import main
sys.exit(main(sys.argv[1:]))
"""


def call(program: str, *arguments: str, data_root: Path) -> subprocess.CompletedProcess[str]:
    environment = {"MORPHSEQ_DATA_ROOT": str(data_root), "PATH": "/usr/bin:/bin", "HOME": str(data_root.parent)}
    return subprocess.run(
        [sys.executable, "-c", _STRICT + program, *arguments],
        env=environment,
        cwd=data_root.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_definitions_load_and_the_report_runs_without_a_warning(frames_root: Path) -> None:
    done = call(_DEFINITIONS, FRAMES_EXPERIMENT, data_root=frames_root)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_command_that_selects_assets_shows_no_warning(frames_root: Path) -> None:
    done = call(_VERB, "materialize", "--partition", FRAMES_EXPERIMENT, data_root=frames_root)
    assert done.returncode == 0, done.stderr
    assert "18 stand" in done.stderr
    assert "Warning" not in done.stderr
