"""The command line before files that no record accounts for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace

A = "20240101"
OLDER = b"what another program made"


@pytest.fixture
def older(add: Callable, workspace: Workspace) -> Path:
    add(A)
    path = workspace.output("lengths", experiment=A)
    path.parent.mkdir(parents=True)
    path.write_bytes(OLDER)
    return path


def test_pipeline_refuses_with_the_commands_and_goes_on_after_discarding(
    say: Callable, older: Path, workspace: Workspace
) -> None:
    said = say("pipeline", "--experiments", A)
    assert said.code == 1
    assert f"tables/lengths_{A}.csv" in said.out + said.err
    assert f"morphseq adopt --experiments {A}" in said.out + said.err
    assert older.read_bytes() == OLDER
    assert "left to you" in say("stale", "--launch").out
    assert older.read_bytes() == OLDER
    said = say("reconcile")
    assert (said.code, "no_record" in said.out, "--discard PATH" in said.out) == (1, True, True)

    assert say("reconcile", "--discard", f"tables/lengths_{A}.csv").code == 0
    assert say("pipeline", "--experiments", A).code == 0
    assert older.read_bytes() != OLDER
    assert workspace.layout.put_aside(f"tables/lengths_{A}.csv").read_bytes() == OLDER
    assert say("reconcile").code == 0


def test_force_replaces_and_keeps_aside(say: Callable, older: Path, workspace: Workspace) -> None:
    assert say("pipeline", "--experiments", A, "--force").code == 0
    assert older.read_bytes() != OLDER
    assert workspace.layout.put_aside(f"tables/lengths_{A}.csv").read_bytes() == OLDER
