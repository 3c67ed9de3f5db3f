"""`morphseq pipeline` that somebody ends: its run is cancelled, nothing else begins, what is finished stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.records import read_record

A, B, C = "20240101", "20240102", "20240103"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ended_command_leaves_a_cancelled_run_and_begins_no_other(
    add: Callable[..., Path], workspace: Workspace, instance: dg.DagsterInstance, sent: signal.Signals
) -> None:
    for name in (A, B, C):
        add(name)
    recipe = workspace.layout.recipes(B)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nslow_s = 600\n")
    command = [sys.executable, "-m", "morphseq_dagster.cli", "pipeline", "--experiments", f"{A},{B},{C}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    claim = workspace.layout.claim("letters", experiment=B)
    deadline = time.monotonic() + 60
    while not claim.exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(sent)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert not claim.exists()
    last, first = instance.get_runs()
    assert (first.tags["dagster/partition"], first.status) == (A, dg.DagsterRunStatus.SUCCESS)
    assert (last.tags["dagster/partition"], last.status) == (B, dg.DagsterRunStatus.CANCELED)
    primary = workspace.output("summary", experiment=A)
    assert read_record(workspace.layout, primary=primary) is not None
