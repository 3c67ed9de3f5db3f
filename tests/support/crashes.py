"""Crashes: what must be true of a data root after a run was killed or refused by the disk.

Two inputs of the toy pipeline have known good outputs. How a run is broken - killed, traced, its disk filled - is in
the tests.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from morphseq_dagster.engine.storage.commit import is_interrupted
from morphseq_dagster.engine.storage.records import OutputVerdict, compare_output, read_record
from morphseq_dagster.engine.storage.sweep import sweep
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import report
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

EXPERIMENT: Final = "20240418"
INPUTS: Final = (
    {f"{row}{column:02d}": f"old{row * column}" for row in "AB" for column in range(1, 5)},
    {f"{row}{column:02d}": f"new{row * (column // 2)}" for row in "BC" for column in range(1, 5)} | {"A01": "oldA"},
)
"""Two inputs that share a well; of the others some are lost, some changed and some new."""
Published = dict[str, bytes]


@dataclass(frozen=True)
class CrashSite:
    """A data root, the good outputs of both inputs, and the rules of survival.

    Parameters
    ----------
    workspace
        The data root under test, of the toy pipeline.
    good
        Published bytes per step, as runs that nothing disturbed make them of each input.
    """

    workspace: Workspace
    good: tuple[dict[str, Published], ...]

    @classmethod
    def build(cls, folder: Path) -> CrashSite:
        """Make the known good outputs and an empty data root below a folder."""
        good = []
        for number, words in enumerate(INPUTS):
            reference = open_toy(folder / f"reference{number}")
            write_words(reference.layout, EXPERIMENT, words=words)
            run_chain(reference, EXPERIMENT)
            good.append(read_published(reference))
        return cls(open_toy(folder / "root"), tuple(good))

    def choose(self, number: int) -> None:
        """Put one of the two inputs in place."""
        write_words(self.workspace.layout, EXPERIMENT, words=INPUTS[number])

    def prepare(self) -> None:
        """Publish the first input and put the second in place."""
        self.choose(0)
        self.run()
        self.choose(1)

    def run(self) -> bool:
        """Run the chain in this process; tell whether nothing had changed."""
        return all(memo for _, memo in run_chain(self.workspace, EXPERIMENT).values())

    def check_old_or_new(self, told: str, *, may_be_aside: bool = False) -> None:
        """Check that every unit of every step is wholly one of its good versions, and that its record knows which.

        Parameters
        ----------
        told
            What happened, for the message.
        may_be_aside
            Whether the old folder may be moved aside while a journal promises the new one, as it must be on a disk
            that cannot exchange folders.

        Raises
        ------
        AssertionError
            When something good was lost.
        """
        layout = self.workspace.layout
        for spec in self.workspace.pipeline.steps:
            files = read_published(self.workspace)[spec.name]
            pending = is_interrupted(layout, step=spec.name, experiment=EXPERIMENT)
            aside = may_be_aside and pending and not files
            versions = [version[spec.name] for version in self.good]
            _demand(aside or files in versions, f"{told}: {spec.name} is neither old nor new: {sorted(files)}")
            record = read_record(layout, primary=self.workspace.output(spec, experiment=EXPERIMENT))
            _demand(record is not None or aside, f"{told}: {spec.name} has no record")
            if record is not None and not pending:
                verdict = compare_output(layout, record=record, thorough=True)
                _demand(verdict is OutputVerdict.AS_RECORDED, f"{told}: {spec.name} is {verdict}")

    def check_healed(self, number: int, told: str) -> None:
        """Check that a sweep leaves no temporary, the next run gives the right bytes, and then all is quiet.

        Raises
        ------
        AssertionError
            When something is left over or wrong.
        """
        layout = self.workspace.layout
        sweep(layout)
        left = sorted(layout.relative(path) for path in layout.data_root.rglob("*.tmp"))
        _demand(not left, f"{told}: left after the sweep: {left}")
        self.check_old_or_new(f"{told}, swept")
        self.run()
        _demand(read_published(self.workspace) == self.good[number], f"{told}: wrong bytes after the next run")
        _demand(self.run(), f"{told}: the run after that computes again")
        files = [path for path in layout.private.rglob("*") if path.is_file() and path.name != ".breaking.lock"]
        _demand(not files, f"{told}: working files are left: {sorted(map(str, files))}")
        for spec in self.workspace.pipeline.steps:
            failure = layout.failure(self.workspace.output(spec, experiment=EXPERIMENT))
            _demand(not failure.exists(), f"{told}: {spec.name} still shows a failure")


@dataclass
class Child:
    """A run of the chain in a forked process: quick to start, and it dies like any other.

    Parameters
    ----------
    pid
        Its process number.
    outcome
        File with what it says of its error.
    """

    pid: int
    outcome: Path

    @classmethod
    def start(cls, site: CrashSite, *, outcome: Path, before: Callable[[], None] | None = None) -> Child:
        """Fork a run; `before` is called in the child first."""
        outcome.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return cls(pid, outcome)
        code = 1
        try:
            if before is not None:
                before()
            run_chain(site.workspace, EXPERIMENT)
            code = 0
        except BaseException as error:  # noqa: BLE001 - told in the file, and the exit code says it
            outcome.write_text(report(error).message)
        finally:
            os._exit(code)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, *, patience_s: float = 300.0) -> int:
        """Wait for its end; return its exit code, negative for a signal.

        Raises
        ------
        AssertionError
            When it does not end.
        """
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
        """What it said of its error; empty when it said nothing."""
        return self.outcome.read_text() if self.outcome.exists() else ""


def read_published(workspace: Workspace) -> dict[str, Published]:
    """Read the published bytes of every step by path; of an image set all files of its folders, records never."""
    found: dict[str, Published] = {}
    layout = workspace.layout
    for spec in workspace.pipeline.steps:
        folders = layout.folders(spec.name, experiment=EXPERIMENT)
        files = [path for folder in folders for path in folder.rglob("*")]
        files += [] if folders else [workspace.output(spec, experiment=EXPERIMENT)]
        found[spec.name] = {
            layout.relative(path): path.read_bytes()
            for path in sorted(files)
            if path.is_file() and not path.name.endswith((".provenance.json", ".failure.json", ".tmp"))
        }
    return found


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
