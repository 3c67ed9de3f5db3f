"""What the crash tests share: two inputs with known good outputs, children made by fork, and what must hold after a crash."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from morphseq_dagster.errors import report
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.commit import is_interrupted
from morphseq_dagster.storage.records import OutputVerdict, compare_output, read_record
from morphseq_dagster.storage.sweep import sweep
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

EXPERIMENT = "20240418"
STEPS = ("letters", "lengths", "summary")
# Two inputs that share some wells, lose some and gain some.
INPUTS = (
    {f"{row}{column:02d}": f"old{row * column}" for row in "AB" for column in range(1, 5)},
    {f"{row}{column:02d}": f"new{row * (column // 2)}" for row in "BC" for column in range(1, 5)} | {"A01": "oldA"},
)
Published = dict[str, bytes]


def published(workspace: Workspace) -> dict[str, Published]:
    """Published bytes per step by path: of a table or document one file, of an image set all files of its folders."""
    found: dict[str, Published] = {}
    for spec in workspace.registry.steps:
        layout = workspace.layout
        primary = workspace.output(spec, experiment=EXPERIMENT)
        folders = layout.folders(spec.name, experiment=EXPERIMENT)
        files = [p for folder in folders for p in folder.rglob("*") if p.is_file()] or [primary]
        found[spec.name] = {
            layout.relative(path): path.read_bytes()
            for path in sorted(files)
            if path.is_file() and not path.name.endswith((".provenance.json", ".failure.json", ".tmp"))
        }
    return found


@dataclass(frozen=True)
class Crashes:
    """A data root, the good outputs of both inputs, and the rules of survival."""

    workspace: Workspace
    good: tuple[dict[str, Published], dict[str, Published]]

    def choose(self, number: int) -> None:
        """Put one of the two inputs in place."""
        write_words(self.workspace.layout, EXPERIMENT, words=INPUTS[number])

    def run(self) -> dict[str, bool]:
        """Run the chain in this process; tell which step had nothing to do."""
        return {step: memo for step, (_, memo) in run_chain(self.workspace, EXPERIMENT).items()}

    def assert_old_or_new(self, told: str, *, may_be_aside: bool = False) -> None:
        """Every unit of every step is wholly one of its good versions, and its record knows which.

        `may_be_aside`: on a disk without an exchange of folders the old one may be moved aside while a journal promises
        the new one.
        """
        layout = self.workspace.layout
        for step, files in published(self.workspace).items():
            pending = is_interrupted(layout, step=step, experiment=EXPERIMENT)
            allowed = [self.good[0][step], self.good[1][step], *([{}] if may_be_aside and pending else [])]
            assert files in allowed, f"{told}: {step} is neither old nor new: {sorted(files)}"
            record = read_record(
                layout, primary=self.workspace.output(self.workspace.registry.spec(step), experiment=EXPERIMENT)
            )
            assert record is not None or may_be_aside, f"{told}: {step} has no record"
            if not pending:
                assert record is not None, f"{told}: {step} has no record"
                verdict = compare_output(layout, record=record, thorough=True)
                assert verdict is OutputVerdict.AS_RECORDED, f"{told}: {step} is {verdict}"

    def prepare(self) -> None:
        """Publish the first input and put the second in place."""
        self.choose(0)
        self.run()
        self.choose(1)

    def assert_healed(self, number: int, told: str) -> None:
        """A sweep leaves no temporary anywhere, the next run completes with the right bytes, and then all is quiet."""
        sweep(self.workspace.layout)
        left = self.left_over
        assert left == [], f"{told}: left after the sweep: {left}"
        self.assert_old_or_new(f"{told}, swept")
        self.run()
        assert published(self.workspace) == self.good[number], f"{told}: wrong bytes after the next run"
        assert all(self.run().values()), f"{told}: the run after that computes again"
        assert self.working_files == [], f"{told}: {self.working_files}"
        for step in STEPS:
            primary = self.workspace.output(self.workspace.registry.spec(step), experiment=EXPERIMENT)
            assert not self.workspace.layout.failure(primary).exists(), f"{told}: {step} still shows a failure"

    @property
    def left_over(self) -> list[str]:
        """Temporaries anywhere below the data root."""
        return sorted(self.workspace.layout.relative(path) for path in self.workspace.data_root.rglob("*.tmp"))

    @property
    def working_files(self) -> list[str]:
        """Claims, journals, checkpoints and messages that a finished run must not leave."""
        private = self.workspace.layout.private
        kept = (".breaking.lock",)
        return sorted(
            p.relative_to(private).as_posix() for p in private.rglob("*") if p.is_file() and p.name not in kept
        )


@pytest.fixture
def crashes(tmp_path: Path) -> Crashes:
    good = []
    for number, words in enumerate(INPUTS):
        reference = open_toy(tmp_path / f"reference{number}")
        write_words(reference.layout, EXPERIMENT, words=words)
        run_chain(reference, EXPERIMENT)
        good.append(published(reference))
    assert good[0] != good[1]
    return Crashes(open_toy(tmp_path / "root"), (good[0], good[1]))


@dataclass
class Child:
    """A run of the chain in a forked process: quick to start, killed like any other."""

    pid: int
    outcome: Path

    def kill(self) -> None:
        """End it at once and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, patience_s: float = 60.0) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        self.kill()
        os.waitpid(self.pid, 0)
        raise AssertionError(f"the child did not end within {patience_s} s")

    @cached_property
    def message(self) -> str:
        """What it said of its error."""
        return self.outcome.read_text() if self.outcome.exists() else ""


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., Child]:
    """Fork a child that runs the chain and leaves its error in a file; `before` is called in the child first."""

    def start(workspace: Workspace, *, before: Callable[[], None] | None = None) -> Child:
        outcome = tmp_path / "outcome.txt"
        outcome.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return Child(pid, outcome)
        code = 3
        try:
            if before is not None:
                before()
            run_chain(workspace, EXPERIMENT)
            code = 0
        except BaseException as error:  # noqa: BLE001 - told in the file, and the exit code says it
            code = 1
            outcome.write_text(report(error).message)
        finally:
            os._exit(code)

    return start
