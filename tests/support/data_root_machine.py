"""A data root of small experiments as a state machine; `data_root_harm.py` adds what happens to its outputs."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from morphseq_dagster.adopt.conventions import PER_EXPERIMENT
from morphseq_dagster.engine.planner.reconcile import reconcile
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.snapshot import take_snapshot
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.storage.sweep import sweep
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.chain import run_chain, write_words
from tests.support.clock import JumpingClock
from tests.support.diamond import weights_file
from tests.support.diamond_root import DiamondRoot, die_at, leave_claim
from tests.support.ledger import INPUTS, ORDER, Lab, Ledger, Made

WORDS = st.dictionaries(
    # Words of one length, so that what follows may come out equal.
    st.sampled_from(["A01", "A02", "B01"]),
    st.sampled_from(["fish", "roes", "egg"]),
    min_size=1,
    max_size=3,
).map(lambda words: tuple(words.items()))
STEPS = st.sampled_from(ORDER)
PARTS = st.sampled_from(
    [("letters",), ("letters", "lengths"), ("letters", "mirrors"), ("letters", "lengths", "summary")]
)
AGES_S = 1e12

EXPERIMENTS: Bundle[str] = Bundle("experiments")


class OwnedRoot(DiamondRoot, RuleBasedStateMachine):
    """A data root of small experiments, and what people, runs and releases do to it."""

    experiments = EXPERIMENTS
    departed: Bundle[str] = Bundle("departed")

    @initialize(target=experiments, words=WORDS)
    def begin(self, words: tuple[tuple[str, str], ...]) -> str:
        """A finished experiment, since most of what can go wrong happens to results."""
        self.folder = Path(tempfile.mkdtemp(prefix="machine"))
        self.root = self.folder / "root"
        self.lab = Lab()
        self.ledgers: dict[str, Ledger] = {}
        self.gone: dict[str, Ledger] = {}
        self.unsure: set[str] = set()  # killed, and not launched since
        self.gave_up: set[str] = set()  # whose killed run was told to put files without a record aside
        self.tampered: set[tuple[str, str]] = set()  # files without a record that somebody changed
        self.number = 0
        self.clock = JumpingClock()
        self.patch = pytest.MonkeyPatch()
        self.clock.install(self.patch.setattr)
        self.patch.setitem(PER_EXPERIMENT, "lengths", (("older", "older/{exp}_lengths.csv"),))
        experiment = self.add_experiment(words)
        assert isinstance(experiment, str)
        self.launch(experiment)
        return experiment

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            shutil.rmtree(self.folder, ignore_errors=True)

    # what people, microscopes and releases do

    @precondition(lambda self: len(self.ledgers) < 2)
    @rule(target=experiments, words=WORDS)
    def add_experiment(self, words: tuple[tuple[str, str], ...]) -> str:
        self.number += 1
        experiment = f"2024041{self.number % 10}_n{self.number}"
        self.ledgers[experiment] = Ledger(self.lab, ())
        self.edit_raw(experiment, words)
        return experiment

    @rule(target=departed, experiment=consumes(experiments))
    def retire_experiment(self, experiment: str) -> str:
        """Results stand without their raw data."""
        self.settle(experiment)
        (self.root / "words" / f"{experiment}.txt").unlink()
        ledger = self.gone[experiment] = self.ledgers.pop(experiment)
        if ledger.closure() == () and ledger.made:
            plan = self.plan(experiment)
            assert (plan.closure, [verdict.step for verdict in plan.held]) == ((), ["letters"])
        return experiment

    @precondition(lambda self: len(self.ledgers) < 2)
    @rule(target=experiments, experiment=consumes(departed), words=st.none() | WORDS)
    def bring_experiment_back(self, experiment: str, words: tuple[tuple[str, str], ...] | None) -> str:
        self.ledgers[experiment] = self.gone.pop(experiment)
        self.edit_raw(experiment, words or self.ledgers[experiment].words)
        return experiment

    @rule(experiment=experiments, words=WORDS)
    def edit_raw(self, experiment: str, words: tuple[tuple[str, str], ...]) -> None:
        self.ledgers[experiment].words = words
        self.clock.stamp(write_words(self.workspace.layout, experiment, words=dict(words)))

    @rule(upper=st.booleans(), comment=st.sampled_from(["", "# a comment\n", "\n\n"]))
    def change_recipe(self, upper: bool, comment: str) -> None:
        self.write_recipe("default", f"{comment}[letters]\nupper = {json.dumps(upper)}\n")
        self.lab.upper = upper

    @rule(experiment=experiments, upper=st.none() | st.booleans())
    def change_own_recipe(self, experiment: str, upper: bool | None) -> None:
        self.write_recipe(experiment, "[letters]\n" + ("" if upper is None else f"upper = {json.dumps(upper)}\n"))
        self.ledgers[experiment].own_upper = upper

    @rule(step=STEPS)
    def change_version(self, step: str) -> None:
        self.lab.versions[step] += 1

    @rule(content=st.sampled_from([None, "", "x", "y"]))
    def change_weights(self, content: str | None) -> None:
        path = weights_file(self.workspace.layout, "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        self.lab.weights = content

    # runs

    @rule(experiment=experiments, force=st.booleans())
    def launch(self, experiment: str, force: bool = False) -> None:
        """One run over the closure reaches the end, and computes what the ledger says."""
        before, known, ledger = self.plan(experiment), experiment not in self.unsure, self.ledgers[experiment]
        held = copy.deepcopy(ledger)
        give_up = not force and self.refuses_foreign(experiment, ORDER)
        done = run_chain(self.workspace, experiment, force=force, replace_untracked=give_up)
        computed = [step for step, (_, hit) in done.items() if not hit]
        expected = ledger.run(force=force)
        if not force:
            assert set(computed) <= set(before.closure)
            assert {verdict.step for verdict in before.pending if verdict.certain} <= set(computed)
        if known:
            assert computed == expected
        else:
            self.resolve(experiment, before=held)
        for step in ORDER:
            self.tampered.discard((experiment, step))
            pruned = ledger.made[step].condition == "pruned"
            assert self.read(experiment, step) == (None if pruned else ledger.made[step].content)
        assert self.plan(experiment).closure == ledger.closure() == ()
        assert all(hit for _, hit in run_chain(self.workspace, experiment).values())
        assert reconcile(self.workspace, experiments=[experiment], hash_all=True).remaining == ()

    @rule(experiment=experiments, steps=PARTS)
    def run_part(self, experiment: str, steps: tuple[str, ...]) -> None:
        self.settle(experiment)
        give_up = self.refuses_foreign(experiment, steps)
        done = run_chain(self.workspace, experiment, steps=steps, replace_untracked=give_up)
        assert [step for step, (_, hit) in done.items() if not hit] == self.ledgers[experiment].run(steps)
        self.tampered -= {(experiment, step) for step in steps}

    @rule(experiment=experiments, after=st.integers(1, 150))
    def kill_run(self, experiment: str, after: int) -> None:
        """A process that runs everything is killed at the n-th thing that it does to the disk."""
        give_up = self.refuses_foreign(experiment, ORDER)
        if pid := os.fork():
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert ended in (0, -signal.SIGKILL)
            self.unsure.add(experiment)
            return
        try:
            die_at(after)
            run_chain(self.workspace, experiment, replace_untracked=give_up)
            os._exit(0)
        finally:
            os._exit(1)

    @rule(experiment=experiments)
    def sweep_up(self, experiment: str) -> None:
        """What the dead left is removed; whoever is half published is wholly so."""
        sweep(self.workspace.layout)
        assert not list(self.root.rglob("*.tmp"))
        assert not list((self.workspace.layout.private / "claims").glob("*.json"))

    @rule(experiment=experiments)
    def compute_elsewhere(self, experiment: str) -> None:
        """What is called done has the very bytes that another data root gets from the same inputs."""
        self.launch(experiment)
        ledger = self.ledgers[experiment]
        fresh = Ledger(self.lab, ledger.words, ledger.own_upper)
        fresh.run()
        other = self.copy_inputs(self.folder / "other")
        run_chain(self.open(other), experiment)
        for step in ORDER:
            # Declared edits and what was adopted apart, and what follows from them.
            if ledger.made[step].condition == "whole" and ledger.made[step].content == fresh.made[step].content:
                for path in self.files(experiment, step):
                    assert path.read_bytes() == (other / path.relative_to(self.root)).read_bytes()
        shutil.rmtree(other)

    def refuses_foreign(self, experiment: str, steps: Collection[str]) -> bool:
        """Whether files without a record lie where steps publish: a run refuses unless they are given up."""
        ledger = self.ledgers[experiment]
        foreign = [step for step in ORDER if step not in ledger.made and self.files(experiment, step)]
        if experiment in self.unsure:  # what they were before the kill
            return experiment in self.gave_up
        self.gave_up -= {experiment}
        for step in (name for name in foreign if name in steps):
            self.gave_up.add(experiment)
            if ledger.made.keys() >= set(INPUTS[step]):
                with pytest.raises(PermanentError, match="without a record"):
                    run_chain(self.workspace, experiment, steps=[step])
        return experiment in self.gave_up

    def settle(self, experiment: str) -> None:
        """Let the next run mend what a kill left, where the rest of a rule must know what is there."""
        if experiment in self.unsure:
            self.launch(experiment)

    def resolve(self, experiment: str, *, before: Ledger) -> None:
        """Take from the disk which of two ways a killed run has gone; both must be right ways."""
        ledger = self.ledgers[experiment]
        for step in ORDER:
            found, made = self.read(experiment, step), ledger.made[step]
            if found is None:
                assert before.made[step].condition == "pruned"
                ledger.made[step] = Made(ledger.ask(step), ledger.compute(step), "pruned")
            elif made.kept:
                assert found == made.content
            else:
                # What was adopted stands, unless the killed run was asked for something else in between.
                earlier = before.made.get(step)
                assert found == ledger.compute(step) or (earlier is not None and found == earlier.content)
                ledger.made[step] = Made(ledger.ask(step), found)
        self.unsure.discard(experiment)

    # machines

    @rule(hours=st.integers(-1000, 1000))
    def jump_clock(self, hours: int) -> None:
        """What was fresh is so by any clock and by any earlier listing, of whatever age."""
        self.clock.ahead_s = 3600.0 * hours
        for experiment, ledger in self.ledgers.items():
            if experiment not in self.unsure and ledger.closure() == ():
                assert self.plan(experiment, fresh_s=AGES_S).closure == ()
                assert self.plan(experiment, budget_files=0, budget_bytes=0).closure == ()

    @rule(experiment=experiments, step=STEPS)
    def leave_dead_claim(self, experiment: str, step: str) -> None:
        leave_claim(self.workspace.layout.lock(step, experiment=experiment))

    @rule(experiment=experiments, step=STEPS)
    def work_meanwhile(self, experiment: str, step: str) -> None:
        """Who is at work is told, and changes nothing about what is stale."""
        with hold_lock(self.workspace.layout.lock(step, experiment=experiment), run_id="elsewhere"):
            plan = self.plan(experiment)
            assert "elsewhere" in plan.busy
            assert experiment in self.unsure or plan.closure == self.ledgers[experiment].closure()

    # what must be true

    @invariant()
    def stale_is_what_would_differ(self) -> None:
        """Never fresh when computing would differ, never stale when it would not, whatever happened."""
        for experiment, ledger in getattr(self, "ledgers", {}).items():
            plan = self.plan(experiment)
            if experiment not in self.unsure:
                assert plan.closure == ledger.closure()
                self.check_status(experiment, plan=plan)
            elif plan.closure == ():
                held = copy.deepcopy(ledger)
                ledger.run()
                self.resolve(experiment, before=held)

    def check_status(self, experiment: str, *, plan: ExperimentPlan) -> None:
        """The word that people read agrees with the plan."""
        scans = Scans(self.workspace.layout, now=self.clock.now())
        (snapshot,) = take_snapshot(self.workspace, experiments=[experiment], scans=scans)
        done = [step for step, cell in snapshot.cells.items() if cell.state in ("ok", "pruned")]
        assert done == [verdict.step for verdict in plan.verdicts if not verdict.runs]

    @invariant()
    def edits_that_were_kept_stand(self) -> None:
        for experiment, ledger in getattr(self, "ledgers", {}).items():
            for step, made in ledger.made.items():
                if made.kept and experiment not in self.unsure:
                    assert self.read(experiment, step) == made.content
