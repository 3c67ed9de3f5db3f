"""The smaller machine, with Dagster: its home may be lost at any time, and reporting brings all of it back.

What Dagster says of every partition is compared with the ledger, which knows the versions and nothing of events. The
exceptions are those of `docs/decisions.md`: Dagster sees no recipe, no raw file, no edit and nothing upstream of an
input's version.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule

from morphseq_dagster.assets.reporting import Reported, report_records
from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.partitions import register_keys
from morphseq_dagster.settings.machine import load_settings
from morphseq_dagster.testing.chain import run_chain, write_words
from tests.support import diamond
from tests.support.ledger import INPUTS, ORDER, Lab, Ledger

WORDS = st.dictionaries(
    st.sampled_from(["A01", "B01"]), st.sampled_from(["fish", "roes", "egg"]), min_size=1, max_size=2
).map(lambda words: tuple(words.items()))
STEPS = st.sampled_from(ORDER)


class HomeAndRoot(RuleBasedStateMachine):
    """A data root and a Dagster home, of which only the first is the truth."""

    experiments: Bundle[str] = Bundle("experiments")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="home"))
        self.root = self.folder / "root"
        self.patch = pytest.MonkeyPatch()
        self.lab = Lab()
        self.ledgers: dict[str, Ledger] = {}
        self.deleted: set[tuple[str, str]] = set()
        self.homes = 0
        self.open_home()
        self.release()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.instance.dispose()
            self.patch.undo()
            shutil.rmtree(self.folder, ignore_errors=True)

    def open_home(self) -> None:
        self.homes += 1
        home = self.folder / f"home{self.homes}"
        home.mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home))

    def release(self) -> None:
        """Load the code anew, as a restarted server does."""
        steps = tuple(replace(spec, version=self.lab.versions[spec.name]) for spec in DIAMOND_PIPELINE.steps)
        pipeline = replace(DIAMOND_PIPELINE, steps=steps)
        self.patch.setattr(diamond, "DIAMOND_PIPELINE", pipeline)
        self.workspace = Workspace(self.root, pipeline)
        self.definitions = build_definitions(load_settings(data_root=self.root), pipeline=diamond.DIAMOND)

    # what happens

    @precondition(lambda self: len(self.ledgers) < 2)
    @rule(target=experiments, words=WORDS)
    def add_experiment(self, words: tuple[tuple[str, str], ...]) -> str:
        experiment = f"2024041{len(self.ledgers)}"
        self.ledgers[experiment] = Ledger(self.lab, ())
        self.edit_raw(experiment, words)
        return experiment

    @rule(experiment=experiments, words=WORDS)
    def edit_raw(self, experiment: str, words: tuple[tuple[str, str], ...]) -> None:
        self.ledgers[experiment].words = words
        write_words(self.workspace.layout, experiment, words=dict(words))

    @rule(upper=st.booleans())
    def change_recipe(self, upper: bool) -> None:
        path = self.root / "recipes" / "default.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[letters]\nupper = {str(upper).lower()}\n")
        self.lab.upper = upper

    @rule(step=STEPS)
    def raise_version(self, step: str) -> None:
        self.lab.versions[step] += 1
        self.release()

    @rule(experiment=experiments)
    def run_by_dagster(self, experiment: str) -> None:
        register_keys(self.instance, [experiment], pipeline=DIAMOND_PIPELINE)
        job = self.definitions.resolve_job_def(PIPELINE_JOB)
        result = job.execute_in_process(instance=self.instance, partition_key=experiment)
        made = [event.materialization for event in result.get_asset_materialization_events()]
        computed = [m.asset_key.path[-1] for m in made if (m.tags or {}).get("morphseq/memo") != "hit"]
        expected = self.ledgers[experiment].run()
        # Branches that do not wait for each other have no order; none computes twice.
        assert sorted(computed) == sorted(expected)
        self.deleted -= {(experiment, step) for step in ORDER}
        assert set(self.statuses(experiment).values()) == {"FRESH"}

    @rule(experiment=experiments)
    def run_without_dagster(self, experiment: str) -> None:
        done = run_chain(self.workspace, experiment)
        assert [step for step, (_, hit) in done.items() if not hit] == self.ledgers[experiment].run()
        self.deleted -= {(experiment, step) for step in ORDER}

    @rule(experiment=experiments, step=STEPS, delete=st.booleans())
    def harm_output(self, experiment: str, step: str, delete: bool) -> None:
        path = self.workspace.output(step, experiment=experiment)
        if step not in self.ledgers[experiment].made or not path.exists():
            return
        self.ledgers[experiment].set(step, condition="broken")
        if delete:
            path.unlink()
            self.deleted.add((experiment, step))
        else:
            path.write_bytes(path.read_bytes() + b" ")

    @rule()
    def report(self) -> None:
        """Told once, Dagster has nothing more to learn, and says what the ledger says."""
        self.tell()
        told = self.tell()
        assert (told.reported, told.tombstones, told.registered) == (0, 0, 0)
        self.agree()

    @rule()
    def lose_home(self) -> None:
        """An empty home learns of every artifact; nothing computes and no file changes."""
        self.instance.dispose()
        shutil.rmtree(self.folder / f"home{self.homes}")
        self.open_home()
        before = self.look()
        told = self.tell()
        recorded = [(name, step) for name, ledger in self.ledgers.items() for step in ledger.made]
        assert told.tombstones == len(self.deleted)
        assert told.reported == len(recorded) - len(self.deleted)
        assert told.registered == len({name for name, _ in recorded})
        assert set(self.instance.get_dynamic_partitions("experiment")) == {name for name, _ in recorded}
        assert self.instance.get_runs_count() == 0
        assert self.look() == before
        self.agree()

    # what must be true

    def tell(self) -> Reported:
        told = report_records(self.instance, graph=self.definitions.resolve_asset_graph(), workspace=self.workspace)
        assert told.refused == ()
        return told

    def look(self) -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in self.root.rglob("*")}

    def statuses(self, experiment: str) -> dict[str, str]:
        """What Dagster itself says of each partition."""
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {step: resolver.get_status(dg.AssetKey(step), experiment).value for step in ORDER}

    def agree(self) -> None:
        for experiment, ledger in self.ledgers.items():
            plan = next(plan_experiments(self.workspace, experiments=[experiment]))
            assert plan.closure == ledger.closure()
            for step, status in self.statuses(experiment).items():
                made = ledger.made.get(step)
                if made is None:
                    assert status == "MISSING"
                    continue
                inputs = made.asked[len(made.asked) - len(INPUTS[step]) :]
                news = [ledger.made[name].content for name in INPUTS[step]] != list(inputs)
                is_code = made.asked[0] != self.lab.versions[step]
                assert status == ("STALE" if news or is_code or (experiment, step) in self.deleted else "FRESH")
                # What Dagster calls stale, the plan does too; what it does not see, is of the kinds that it cannot.
                kinds = {cause.kind for cause in plan.verdict(step).causes}
                assert status == "FRESH" or step in plan.closure
                assert status == "STALE" or kinds <= {"recipe", "data", "file_changed", "upstream", "key"}


DIAMOND_PIPELINE = diamond.DIAMOND_PIPELINE  # before a release replaces it


class TestHomeAndRoot(HomeAndRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=6, stateful_step_count=12, deadline=None)


@pytest.mark.slow
class TestHomeAndRootAtLength(HomeAndRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
