"""Anything may happen to a data root in any order; what the plan says stays true, and one launch mends it.

The oracle recomputes nothing through the planner: it knows the three toy steps as plain functions of words, recipe and
version, and looks at bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.lineage.mending import discard, refresh
from morphseq_dagster.lineage.plan import plan_experiments
from morphseq_dagster.lineage.planner import ExperimentPlan
from morphseq_dagster.steps.contract import Registry
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.durable import write_durably
from morphseq_dagster.storage.hashing import hash_bytes
from morphseq_dagster.storage.records import Record, describe_output, encode, read_record
from morphseq_dagster.testing.chain import run_chain, write_words
from morphseq_dagster.testing.toy import LENGTHS, TOY_REGISTRY

WORDS = st.dictionaries(
    st.sampled_from(["A01", "A02", "B01"]), st.sampled_from(["fish", "egg", "larva"]), min_size=1, max_size=3
)
STEPS = st.sampled_from(["letters", "lengths", "summary"])


class DataRoot(RuleBasedStateMachine):
    """A data root of toy experiments, and what a person, a disk and a release do to it."""

    experiments: Bundle[str] = Bundle("experiments")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine"))
        self.versions = {"letters": 1, "lengths": 1, "summary": 1}
        self.words: dict[str, dict[str, str]] = {}
        self.upper = False
        self.kept: dict[tuple[str, str], bytes] = {}
        self.clean: set[str] = set()  # launched, and nothing happened since that could change a byte
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def workspace(self) -> Workspace:
        steps = tuple(replace(spec, version=self.versions[spec.name]) for spec in TOY_REGISTRY.steps)
        return Workspace(self.folder / "root", Registry(steps, TOY_REGISTRY.artifacts))

    def plan(self, experiment: str) -> ExperimentPlan:
        return next(plan_experiments(self.workspace, experiments=[experiment]))

    def output(self, experiment: str, step: str) -> Path:
        return self.workspace.output(step, experiment=experiment)

    # what happens

    @precondition(lambda self: len(self.words) < 2)
    @rule(target=experiments, words=WORDS)
    def add_experiment(self, words: dict[str, str]) -> str:
        self.number += 1
        experiment = f"2024041{self.number % 10}_n{self.number}"
        self.words[experiment] = words
        write_words(self.workspace.layout, experiment, words=words)
        return experiment

    @rule(experiment=consumes(experiments))
    def retire_experiment(self, experiment: str) -> None:
        (self.folder / "root" / "words" / f"{experiment}.txt").unlink()
        del self.words[experiment]
        self.clean.discard(experiment)
        self.kept = {key: data for key, data in self.kept.items() if key[0] != experiment}

    @rule(experiment=experiments, words=WORDS)
    def edit_raw(self, experiment: str, words: dict[str, str]) -> None:
        if list(words.items()) != list(self.words[experiment].items()):
            self.clean.discard(experiment)
        self.words[experiment] = words
        write_words(self.workspace.layout, experiment, words=words)

    @rule(experiment=experiments)
    def touch_everything(self, experiment: str) -> None:
        for path in (self.folder / "root").rglob(f"*{experiment}*"):
            if path.is_file() and ".morphseq" not in path.parts:
                os.utime(path)

    @rule(upper=st.booleans(), comment=st.sampled_from(["", "# a comment\n", "\n\n"]))
    def change_recipe(self, upper: bool, comment: str) -> None:
        path = self.folder / "root" / "recipes" / "default.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{comment}[letters]\nupper = {'true' if upper else 'false'}\n")
        self.clean = self.clean if self.upper == upper else set()
        self.upper = upper

    @rule(step=STEPS)
    def raise_version(self, step: str) -> None:
        self.versions[step] += 1
        self.clean.clear()

    @rule(experiment=experiments)
    def launch(self, experiment: str) -> None:
        """One run over the closure reaches the end, and computes what was certain and nothing outside the closure."""
        before = self.plan(experiment)
        done = run_chain(self.workspace, experiment)
        computed = {step for step, (_, hit) in done.items() if not hit}
        assert computed <= set(before.closure)
        assert {verdict.step for verdict in before.pending if verdict.certain} <= computed
        assert self.plan(experiment).closure == ()
        assert all(hit for _, hit in run_chain(self.workspace, experiment).values())
        assert self.is_right(experiment) or self.holds_edit(experiment)
        self.clean.add(experiment)

    @precondition(lambda self: self.number <= 2)
    @rule(experiment=experiments, after=st.floats(0.3, 0.9))
    def kill_run(self, experiment: str, after: float) -> None:
        """A run in another process is killed wherever it happens to be."""
        command = [sys.executable, "-m", "morphseq_dagster.testing.chain", str(self.folder / "root"), experiment]
        if set(self.versions.values()) != {1}:
            return  # the child runs the registry as it is shipped
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(after)
        child.kill()
        child.wait()

    @rule(experiment=experiments, step=STEPS)
    def delete_output(self, experiment: str, step: str) -> None:
        self.output(experiment, step).unlink(missing_ok=True)
        self.clean.discard(experiment)
        self.kept.pop((experiment, step), None)

    @rule(experiment=experiments)
    def lose_record(self, experiment: str) -> None:
        path = self.output(experiment, "lengths")
        self.workspace.layout.record(path).unlink(missing_ok=True)
        self.clean.discard(experiment)
        self.kept.pop((experiment, "lengths"), None)

    @rule(experiment=experiments)
    def edit_output(self, experiment: str) -> None:
        """An edit that nobody declares: the next launch makes the file again."""
        path = self.output(experiment, "summary")
        if path.exists() and (experiment, "summary") not in self.kept:
            path.write_bytes(path.read_bytes() + b"\n")
            self.clean.discard(experiment)

    @rule(experiment=experiments)
    def keep_edit(self, experiment: str) -> None:
        """A table is edited and declared valid, after a run so that there is one."""
        run_chain(self.workspace, experiment)
        path = self.output(experiment, "lengths")
        record = self.sound_record(experiment, "lengths")
        if record is None:
            return
        table = LENGTHS.decode(path.read_bytes(), where="table")
        data = LENGTHS.encode(table.assign(letters=table["letters"] + 1), where="table")
        path.write_bytes(data)
        output = describe_output(
            self.workspace.layout, primary=path, staged_primary=path, sha256=hash_bytes(data), folders=()
        )
        values = {"origin": "external_edit", "data_version": hash_bytes(data), "output": output}
        write_durably(self.workspace.layout.record(path), encode(record.model_copy(update=values)))
        self.kept[experiment, "lengths"] = data
        self.clean.discard(experiment)

    @rule(experiment=experiments)
    def discard_edit(self, experiment: str) -> None:
        if self.kept.pop((experiment, "lengths"), None) is not None:
            with contextlib.suppress(PermanentError):  # only a touched one has something to refresh
                refresh(self.workspace, self.output(experiment, "lengths"))
            discard(self.workspace, self.output(experiment, "lengths"))
            self.clean.discard(experiment)

    @rule(experiment=experiments)
    def prune_output(self, experiment: str) -> None:
        run_chain(self.workspace, experiment)
        path = self.output(experiment, "lengths")
        record = self.sound_record(experiment, "lengths")
        if record is not None and (experiment, "lengths") not in self.kept:
            pruned = record.model_copy(update={"condition": "pruned"})
            write_durably(self.workspace.layout.record(path), encode(pruned))
            path.unlink()

    @rule(experiment=experiments, hours=st.integers(-100, 100))
    def jump_clock(self, experiment: str, hours: int) -> None:
        """Records and files carry times of another clock."""
        moment = time.time() + 3600 * hours
        for step in ("letters", "lengths", "summary"):
            if self.output(experiment, step).exists():
                os.utime(self.output(experiment, step), (moment, moment))

    # what must be true

    @invariant()
    def never_fresh_when_wrong(self) -> None:
        """What the plan calls done has the bytes that computing would give, declared edits apart."""
        for experiment in getattr(self, "words", {}):
            if not self.plan(experiment).pending and not self.holds_edit(experiment):
                assert self.is_right(experiment)

    @invariant()
    def never_stale_when_right(self) -> None:
        """Touching, copying, clocks, comments, pruning and equal rewrites make nothing stale."""
        for experiment in getattr(self, "clean", ()):
            assert self.plan(experiment).closure == ()

    @invariant()
    def edits_that_were_kept_stand(self) -> None:
        for (experiment, step), data in getattr(self, "kept", {}).items():
            assert self.output(experiment, step).read_bytes() == data

    # the oracle

    def sound_record(self, experiment: str, step: str) -> Record | None:
        """Record of a published output that nobody changed since; None otherwise."""
        path = self.output(experiment, step)
        record = read_record(self.workspace.layout, primary=path)
        journal = self.workspace.layout.journal(step, experiment=experiment)
        if record is None or record.condition != "published" or not path.exists() or journal.exists():
            return None
        return record if hash_bytes(path.read_bytes()) == record.output.sha256 else None

    def holds_edit(self, experiment: str) -> bool:
        return (experiment, "lengths") in self.kept

    def is_right(self, experiment: str) -> bool:
        """Whether the outputs are what the steps give for the words and the recipe, worked out by hand."""
        words = self.words[experiment]
        folder = self.folder / "root" / "letters" / experiment
        pictures = {path.stem: path.read_text() for path in folder.glob("*.txt")}
        if pictures != {well: word.upper() if self.upper else word for well, word in words.items()}:
            return False
        table = self.output(experiment, "lengths")
        if table.exists():  # else pruned
            found = LENGTHS.decode(table.read_bytes(), where="table")
            if dict(zip(found["well"], found["letters"], strict=True)) != {w: len(t) for w, t in words.items()}:
                return False
        summary = json.loads(self.output(experiment, "summary").read_bytes())
        return (summary["wells"], summary["letters"]) == (len(words), sum(map(len, words.values())))


class TestDataRoot(DataRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestDataRootAtLength(DataRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
