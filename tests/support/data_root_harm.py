"""The data root of `data_root_machine.py` whose outputs are edited, lost, replaced, adopted and kept."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from morphseq_dagster.adopt.importer import Import
from morphseq_dagster.engine.planner.reconcile_actions import discard, keep
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.records import encode, read_record
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.chain import run_chain
from tests.support.data_root_machine import EXPERIMENTS, STEPS, WORDS, OwnedRoot
from tests.support.ledger import INPUTS, ORDER

TABLES_AND_DOCUMENTS = st.sampled_from(["lengths", "summary"])
SETS = st.sampled_from(["letters", "mirrors"])
HARMS = st.sampled_from(["append", "same size", "replace", "truncate", "delete"])
HARMS_OF_SETS = HARMS | st.sampled_from(["add", "lose folder"])


class DataRoot(OwnedRoot):
    """A data root, and what a person, a disk and a release do to it."""

    @rule(experiment=EXPERIMENTS, step=STEPS, harm=HARMS)
    def harm_output(self, experiment: str, step: str, harm: str) -> None:
        """Behind the pipeline's back; nobody declares it."""
        path = self.output(experiment, step)
        if path.exists() and self.may_harm(experiment, step):
            self.damage(path, harm)
            self.note_harm(experiment, step)

    @rule(experiment=EXPERIMENTS, step=SETS, folder=st.integers(0, 1), well=st.integers(0, 2), harm=HARMS_OF_SETS)
    def harm_picture(self, experiment: str, step: str, folder: int, well: int, harm: str) -> None:
        """As above, one file of many; the others and the manifest stay as they are."""
        folders = self.workspace.layout.folders(step, experiment=experiment)
        chosen = folders[folder % len(folders)]
        pictures = sorted(chosen.glob("*.txt"))
        if not pictures or not self.may_harm(experiment, step):
            return
        if harm == "lose folder":
            shutil.rmtree(chosen)
            if chosen == folders[0]:
                self.ledgers[experiment].lose([step])  # the record lies in it
        elif harm == "add":
            (chosen / "H12.txt").write_text("a stray file")
        else:
            self.damage(pictures[well % len(pictures)], harm)
        self.note_harm(experiment, step)

    def may_harm(self, experiment: str, step: str) -> bool:
        """Whether this is the rule for it: an edit of what was kept has its own."""
        self.settle(experiment)
        ledger = self.ledgers[experiment]
        return step not in ledger.made or not ledger.made[step].kept

    def note_harm(self, experiment: str, step: str) -> None:
        ledger = self.ledgers[experiment]
        if ledger.is_whole(step):
            ledger.set(step, condition="broken")
        elif step not in ledger.made:
            self.tampered.add((experiment, step))

    @rule(experiment=EXPERIMENTS, copied=st.booleans())
    def touch_everything(self, experiment: str, copied: bool) -> None:
        """The times or the inodes of all files are others, as in a restored backup; contents are the same."""
        for path in [path for step in ORDER for path in self.files(experiment, step)]:
            self.touch(path, copied=copied)

    @rule(experiment=EXPERIMENTS, step=TABLES_AND_DOCUMENTS)
    def keep_edit(self, experiment: str, step: str) -> None:
        """An edit is declared valid. One that was kept before stops every run until somebody decides again."""
        self.settle(experiment)
        ledger, path = self.ledgers[experiment], self.output(experiment, step)
        if not ledger.is_whole(step):
            return
        self.edit(path)
        plan = self.plan(experiment)
        assert step in plan.closure
        assert [cause.kind for cause in plan.verdict(step).causes].count("file_changed") == 1
        if ledger.made[step].kept and ledger.made.keys() >= set(INPUTS[step]):
            with pytest.raises(PermanentError, match="another edit"):
                run_chain(self.workspace, experiment, steps=[step])
        keep(self.workspace, path)
        ledger.set(step, kept=True, content=self.read(experiment, step))

    @rule(experiment=EXPERIMENTS, step=STEPS)
    def discard_edit(self, experiment: str, step: str) -> None:
        self.settle(experiment)
        made = self.ledgers[experiment].made.get(step)
        if made is None:
            if self.files(experiment, step):
                discard(self.workspace, self.output(experiment, step))
            assert not self.files(experiment, step)
            self.tampered.discard((experiment, step))
        elif made.kept or made.condition == "broken":
            discard(self.workspace, self.output(experiment, step))
            self.ledgers[experiment].set(step, kept=False, condition="discarded")
        else:
            with pytest.raises(PermanentError):
                discard(self.workspace, self.output(experiment, step))

    @rule(experiment=EXPERIMENTS, step=STEPS, garbled=st.booleans())
    def lose_record(self, experiment: str, step: str, garbled: bool) -> None:
        """A record is lost, or cannot be understood and is then removed."""
        self.settle(experiment)
        ledger = self.ledgers[experiment]
        if step not in ledger.made:
            return
        path = self.workspace.layout.record(self.output(experiment, step))
        if garbled:
            path.write_text("{")
            plan = self.plan(experiment)
            assert (step in plan.closure, bool(plan.verdict(step).held)) == (True, True)
            if ledger.made.keys() >= set(INPUTS[step]):
                with pytest.raises(PermanentError, match="record"):
                    run_chain(self.workspace, experiment, steps=[step])
        path.unlink()
        if ledger.made[step].condition != "whole":
            self.tampered.add((experiment, step))
        ledger.lose([step])

    @rule(experiment=EXPERIMENTS, step=st.sampled_from(["lengths", "summary", "sentence"]))
    def prune_output(self, experiment: str, step: str) -> None:
        """Only what the step has made itself: nothing else could be made again as it was."""
        self.settle(experiment)
        ledger, path = self.ledgers[experiment], self.output(experiment, step)
        record = read_record(self.workspace.layout, primary=path)
        if record is not None and ledger.is_whole(step) and record.origin == "computed":
            pruned = record.model_copy(update={"condition": "pruned"})
            write_durably(self.workspace.layout.record(path), encode(pruned))
            path.unlink()
            ledger.set(step, condition="pruned")

    # adoption

    @rule(experiment=EXPERIMENTS)
    def adopt_what_lies_there(self, experiment: str) -> None:
        """A good file without its record gets one and nothing computes; what a record contradicts does not."""
        self.settle(experiment)
        ledger = self.ledgers[experiment]
        found = {
            outcome.step: outcome.action for outcome in Import(self.workspace, self.root, apply=True).run([experiment])
        }
        ready: set[str] = set()
        for step in ORDER:
            lies, action = self.output(experiment, step).exists(), found.get(step)
            if step in ledger.made:
                if ledger.made[step].condition in ("whole", "pruned"):
                    assert action == "recorded"
                    ready.add(step)
                else:
                    assert action == ("refused" if lies else None)
            elif not lies:
                assert action is None
            elif not ready.issuperset(INPUTS[step]):
                assert action == "blocked"
            elif (experiment, step) in self.tampered and action == "refused":
                pass
            else:
                assert action == "adopt"
                ledger.adopt(step, self.read(experiment, step))
                ready.add(step)
                self.tampered.discard((experiment, step))

    @rule(experiment=EXPERIMENTS, words=WORDS)
    def adopt_older_table(self, experiment: str, words: tuple[tuple[str, str], ...]) -> None:
        """An older program's table takes the place of a result; it is not computed until something changes."""
        self.settle(experiment)
        ledger = self.ledgers[experiment]
        if not ledger.is_whole("letters"):
            return
        path = self.output(experiment, "lengths")
        path.unlink(missing_ok=True)
        self.workspace.layout.record(path).unlink(missing_ok=True)
        ledger.lose(["lengths"])
        older = self.write_older_table(experiment, words)
        self.adopt_what_lies_there(experiment)
        older.unlink()
        assert ledger.made["lengths"].content == tuple((well, len(word), 0.5) for well, word in sorted(words))
