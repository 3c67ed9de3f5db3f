"""SIGKILL at random moments of whole runs of the second workflow: old or new, and the next run heals everything."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from morphseq_dagster.engine.storage.records import OutputVerdict, compare_output, read_record
from morphseq_dagster.engine.storage.sweep import sweep
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.chain import run_chain
from morphseq_dagster.testing.training import observations_file
from tests.second_workflow.conftest import CNN, make_study

KILLS = 20


def published(study: Workspace) -> dict[str, bytes]:
    folders = ("prepared", "trained", "results")
    files = [path for folder in folders for path in (study.data_root / folder).rglob("*") if path.is_file()]
    return {
        study.layout.relative(p): p.read_bytes() for p in files if not p.name.endswith((".provenance.json", ".tmp"))
    }


def observe(study: Workspace, *, words: str) -> None:
    observations_file(study.layout, CNN).write_text("".join(f"{words}{number}\n" for number in range(20)))


def run_in_child(study: Workspace) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run_chain(study, CNN)
        code = 0
    finally:
        os._exit(code)


def test_killed_runs_leave_old_or_new_and_heal(study: Workspace, tmp_path: Path) -> None:
    good = {}
    for words in ("old", "new"):
        reference = make_study(tmp_path / words)
        observe(reference, words=words)
        run_chain(reference, CNN)
        good[words] = published(reference)
    assert good["old"] != good["new"]
    chance, killed = random.Random(5), 0
    observe(study, words="old")
    began = time.monotonic()
    run_chain(study, CNN)
    whole_s = time.monotonic() - began
    for number in range(10 * KILLS):
        if killed == KILLS:
            break
        words = ("new", "old")[number % 2]
        observe(study, words=words)
        pid = run_in_child(study)
        time.sleep(chance.uniform(0, 1.2 * whole_s))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        sweep(study.layout)
        for step in study.pipeline.step_names:
            record = read_record(study.layout, primary=study.output(step, experiment=CNN))
            assert record is not None
            assert compare_output(study.layout, record=record, thorough=True) is OutputVerdict.AS_RECORDED
        run_chain(study, CNN)
        assert published(study) == good[words], f"kill {number}"
        assert all(stood for _, stood in run_chain(study, CNN).values())
    assert killed == KILLS
    assert not list(study.data_root.rglob("*.tmp"))
