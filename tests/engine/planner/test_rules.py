"""Rules of the planner that the table of changes cannot show: failures, holders, inputs that are gone, launch names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.engine.contract.step import StepRequest, make_key
from morphseq_dagster.engine.executors.execution import fail_request
from morphseq_dagster.engine.planner.facts import ExperimentFacts, read_facts
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.rules import BRAKE, compare_values, plan_experiment
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, encode_plan
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_json
from morphseq_dagster.engine.storage.records import InputRead, encode, read_failure, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, TransientError
from morphseq_dagster.testing.chain import run_chain, write_words

EXPERIMENT = "20240418"


UNSURE = {"waiting", "running", "interrupted", "unreadable", "upstream", "failed"}
"""Kinds of causes for which a run may find that nothing is to be computed."""


def plan(workspace: Workspace, **options: object) -> ExperimentPlan:
    found: ExperimentPlan = next(plan_experiments(workspace, experiments=[EXPERIMENT], **options))  # type: ignore[arg-type]
    assert not [c for verdict in found.verdicts for c in verdict.causes if c.kind in UNSURE and c.computes]
    return found


def kinds(plan: ExperimentPlan, step: str) -> list[str]:
    return [cause.kind for cause in plan.verdict(step).causes]


@pytest.fixture
def done(workspace: Workspace) -> Workspace:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "egg"})
    run_chain(workspace, EXPERIMENT)
    return workspace


def facts_of(workspace: Workspace) -> ExperimentFacts:
    return next(read_facts(workspace, experiments=[EXPERIMENT]))


def test_a_new_experiment_runs_whole(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    found = plan(workspace)
    assert found.closure == found.automatic == ("letters", "lengths", "summary")
    assert all(verdict.certain for verdict in found.pending)
    assert found.run_key.startswith(f"stale:{EXPERIMENT}:")


def test_what_is_done_has_no_causes_and_no_launch(done: Workspace) -> None:
    found = plan(done)
    assert (found.closure, found.automatic, found.run_key) == ((), (), "")


def test_causes_carry_parameter_old_and_new_value(done: Workspace) -> None:
    write_durably(done.layout.recipes(EXPERIMENT)[1], b"[letters]\nupper = true\n")
    found = plan(done)
    (cause,) = found.verdict("letters").causes
    assert (cause.kind, cause.subject, cause.old, cause.new) == ("recipe", "upper", False, True)
    assert kinds(found, "lengths") == ["upstream"]
    assert [verdict.certain for verdict in found.pending] == [True, False, False]
    assert encode_plan(found)["steps"][0]["causes"][0]["text"] == "recipe upper: false -> true"


def test_an_input_that_differs_is_named_with_both_hashes(done: Workspace) -> None:
    before = facts_of(done).steps["letters"].record
    assert before is not None
    write_words(done.layout, EXPERIMENT, words={"A01": "whale"})
    (cause,) = plan(done).verdict("letters").causes
    assert (cause.kind, cause.subject) == ("data", "words")
    assert cause.old == before.inputs[0].sha256 != cause.new


def test_failures_with_the_same_request_pull_the_brake_and_other_requests_release_it(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "busy"})  # transient, and too many wells fail
    keys = []
    for tries in range(1, BRAKE + 1):
        keys.append(plan(workspace).run_key)
        assert not plan(workspace).verdict("letters").held
        with pytest.raises(MorphseqError):
            run_chain(workspace, EXPERIMENT)
        assert plan(workspace).verdict("letters").causes[-1].tries == tries
    assert len(set(keys)) == 1  # a failure is no reason for another launch
    braked = plan(workspace)
    assert f"failed {BRAKE} times" in braked.verdict("letters").held
    assert braked.automatic == ()
    assert braked.closure == ("letters", "lengths", "summary")  # who asks for it gets it
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    mended = plan(workspace)
    assert (mended.held, mended.automatic) == ((), mended.closure)
    assert mended.run_key != keys[0]


def test_an_error_that_trying_cannot_help_is_left_to_a_person_at_once(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fail"})
    with pytest.raises(MorphseqError):
        run_chain(workspace, EXPERIMENT)
    assert plan(workspace).automatic == ()


def test_a_missing_input_holds_the_step_and_what_follows(workspace: Workspace) -> None:
    found = plan(workspace)
    assert kinds(found, "letters") == ["missing", "waiting"]
    assert found.automatic == ()
    assert not found.verdict("letters").certain


def test_a_result_stands_when_its_input_was_archived(done: Workspace) -> None:
    (done.data_root / "words" / f"{EXPERIMENT}.txt").unlink()
    found = plan(done)
    assert found.closure == ()
    assert kinds(found, "letters") == ["waiting"]
    assert found.verdict("letters").held


def fail(workspace: Workspace, step: str) -> None:
    request = workspace.request(workspace.pipeline.spec(step), experiment=EXPERIMENT)
    error = TransientError(expected="a disk", found="none", where="here", remedy="plug it in")
    fail_request(workspace.layout, request=request, error=error)


def test_a_failed_attempt_beside_a_result_that_answers_is_no_certain_computation(done: Workspace) -> None:
    fail(done, "letters")
    found = plan(done)
    assert kinds(found, "letters") == ["failed"]
    assert (found.verdict("letters").runs, found.verdict("letters").certain) == (True, False)


def test_an_input_that_is_gone_with_its_record_leaves_open_whether_the_step_computes(done: Workspace) -> None:
    path = done.output("letters", experiment=EXPERIMENT)
    shutil.rmtree(path.parent)
    found = plan(done)
    assert [verdict.certain for verdict in found.pending] == [True, False, False]
    (lost,) = (cause for cause in found.verdict("lengths").causes if cause.kind == "data")
    assert (lost.subject, lost.new, lost.computes) == ("letters", None, False)


@pytest.mark.parametrize("certain", [True, False])
def test_pruned_bytes_are_made_again_as_surely_as_they_are_needed(done: Workspace, certain: bool) -> None:
    path = done.output("lengths", experiment=EXPERIMENT)
    record = read_record(done.layout, primary=path)
    assert record is not None
    write_durably(done.layout.record(path), encode(record.model_copy(update={"condition": "pruned"})))
    path.unlink()
    if not certain:
        fail(done, "summary")
    workspace = Workspace(done.data_root, _with_version(done, "summary")) if certain else done
    found = plan(workspace)
    (cause,) = found.verdict("lengths").causes
    assert (cause.kind, cause.subject, cause.computes) == ("pruned", "summary", certain)
    assert [(verdict.step, verdict.certain) for verdict in found.pending] == [
        ("lengths", certain),
        ("summary", certain),
    ]


def test_a_step_at_work_elsewhere_is_not_said_to_compute(done: Workspace) -> None:
    with hold_lock(done.layout.lock("letters", experiment=EXPERIMENT), run_id="r"):
        verdict = plan(done).verdict("letters")
    assert [cause.kind for cause in verdict.causes] == ["running"]
    assert (verdict.runs, verdict.certain) == (False, False)


def test_an_experiment_at_work_is_busy_by_claim_or_by_word(done: Workspace) -> None:
    with hold_lock(done.layout.lock("lengths", experiment=EXPERIMENT), run_id="a-run"):
        assert "a-run" in plan(done).busy
    assert plan(done).busy == ""
    assert plan(done, busy={EXPERIMENT: "run x is queued"}).busy == "run x is queued"


def test_an_unreadable_record_is_never_fresh_and_held(done: Workspace) -> None:
    done.layout.record(done.output("lengths", experiment=EXPERIMENT)).write_bytes(b"{")
    found = plan(done)
    assert kinds(found, "lengths") == ["unreadable"]
    assert found.automatic == ()
    assert found.closure == ("lengths", "summary")


def test_an_unreadable_recipe_says_so_of_the_experiment(done: Workspace) -> None:
    write_durably(done.layout.recipes(EXPERIMENT)[1], b"[letters]\nuper = true\n")
    found = plan(done)
    assert "did you mean upper?" in found.problem
    assert found.automatic == ()
    assert all(verdict.runs and verdict.held for verdict in found.verdicts), "who asks for it gets the error"


def test_an_edit_is_left_to_a_person_while_other_branches_go_on(done: Workspace) -> None:
    done.output("summary", experiment=EXPERIMENT).write_bytes(b"{}")
    done = Workspace(done.data_root, _with_version(done, "letters"))
    found = plan(done)
    assert found.verdict("summary").held
    assert found.automatic == ("letters", "lengths")


def test_forced_steps_run_and_say_so(done: Workspace) -> None:
    found = plan(done, forced={"lengths"})
    assert (kinds(found, "lengths"), found.closure) == (["forced"], ("lengths", "summary"))


def test_only_the_steps_asked_for_are_planned(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    assert plan(workspace, steps={"letters", "lengths"}).closure == ("letters", "lengths")


def test_a_key_that_was_formed_otherwise_is_a_cause(done: Workspace) -> None:
    path = done.output("lengths", experiment=EXPERIMENT)
    record = read_record(done.layout, primary=path)
    assert record is not None
    write_durably(done.layout.record(path), encode(record.model_copy(update={"request_key": "0"})))
    assert kinds(plan(done), "lengths") == ["key"]


def test_an_old_failure_of_another_request_is_no_cause(done: Workspace) -> None:
    write_words(done.layout, EXPERIMENT, words={"A01": "fail"})
    with pytest.raises(MorphseqError):
        run_chain(done, EXPERIMENT)
    assert read_failure(done.layout, primary=done.output("letters", experiment=EXPERIMENT)) is not None
    write_words(done.layout, EXPERIMENT, words={"A01": "fish", "A02": "egg"})
    assert plan(done).closure == ()


def test_times_are_added_up_per_certainty(done: Workspace) -> None:
    facts = facts_of(done)
    own = facts.steps["letters"]
    assert own.record is not None
    steps = {**facts.steps, "letters": replace(own, record=own.record.model_copy(update={"seconds": 7.0}))}
    found = plan_experiment(replace(facts, steps=steps), pipeline=_with_version(done, "letters"))
    assert found.verdict("letters").seconds == 7.0


def test_planning_writes_nothing(done: Workspace) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.data_root.rglob("*")}
    plan(done, scans=Scans(done.layout))
    assert {path: path.stat().st_mtime_ns for path in done.data_root.rglob("*")} == before


def test_key_is_the_hash_of_its_parts_as_one_document() -> None:
    request = StepRequest(
        experiment="e",
        step="s",
        version=3,
        recipe={"b": 1.5, "a": {"ü": None}},
        inputs=(InputRead(name="z", path="p", sha256="1"), InputRead(name="a", path="q", sha256=None)),
        output="o",
        data_root="/r",
    )
    parts = {"experiment": "e", "step": "s", "version": 3, "recipe": request.recipe, "output": "o"}
    assert request.key == hash_json({**parts, "inputs": {"z": "1", "a": None}})
    recipe = canonical_json(request.recipe)
    key = make_key(experiment="e", step="s", version=3, recipe=recipe, inputs={"a": None, "z": "1"}, output="o")
    assert key == request.key


def _with_version(workspace: Workspace, step: str):  # noqa: ANN202 - the pipeline with that step raised
    pipeline = workspace.pipeline
    steps = tuple(replace(s, version=s.version + 1) if s.name == step else s for s in pipeline.steps)
    return replace(pipeline, steps=steps)


class TestScans:
    """The cache of listings says where to look, never what is true."""

    def test_a_stored_listing_serves_while_fresh_and_beside_the_same_record(self, tmp_path: Path, workspace) -> None:  # noqa: ANN001
        first = Scans(workspace.layout, now=1000.0)
        first.look("f", take=lambda: "one", beside="record", expected_files=1)
        first.save()

        def ask(*, now: float, fresh_s: float, beside: str = "record") -> str:
            scans = Scans(workspace.layout, now=now, fresh_s=fresh_s)
            found = scans.look("f", take=lambda: "two", beside=beside, expected_files=1)
            assert found is not None
            return found.digest

        assert ask(now=1010.0, fresh_s=60.0) == "one"
        assert ask(now=1100.0, fresh_s=60.0) == "two"  # too old
        assert ask(now=1010.0, fresh_s=60.0, beside="a later record") == "two"
        assert ask(now=990.0, fresh_s=60.0) == "two"  # the clock went back
        assert ask(now=1010.0, fresh_s=0.0) == "two"

    def test_beyond_the_budget_the_last_listing_serves_or_nothing(self, workspace) -> None:  # noqa: ANN001
        first = Scans(workspace.layout, now=1000.0)
        first.look("known", take=lambda: "one", beside="", expected_files=1)
        first.save()
        scans = Scans(workspace.layout, now=9999.0, budget_files=10)
        known = scans.look("known", take=lambda: "two", beside="", expected_files=11)
        assert known is not None
        assert known.digest == "one"
        assert scans.look("new", take=lambda: "two", beside="", expected_files=11) is None
        assert (scans.relied, scans.skipped) == (["known"], ["new"])

    def test_a_listing_from_before_the_record_never_serves_however_the_clock_jumped(self, workspace) -> None:  # noqa: ANN001
        first = Scans(workspace.layout, now=9000.0)  # the clock was ahead, then it was put right
        first.look("f", take=lambda: "one", beside="record", expected_files=1)
        first.save()
        scans = Scans(workspace.layout, now=9001.0, fresh_s=1e9, budget_files=0)
        assert scans.look("f", take=lambda: "two", beside="record of 1000", expected_files=1) is None

    def test_a_damaged_cache_is_an_empty_one(self, workspace) -> None:  # noqa: ANN001
        path = workspace.layout.private / "scans" / "listings.json"
        for data in (b"", b"[]", b'{"schema": 2, "listings": {"a": 3}, "checked": {}}', b'{"schema": 1}'):
            write_durably(path, data)
            found = Scans(workspace.layout, fresh_s=1e9).look("a", take=lambda: "x", beside="", expected_files=1)
            assert found is not None
            assert found.digest == "x"

    def test_a_suspicion_is_cleared_by_reading_once(self, workspace) -> None:  # noqa: ANN001
        calls = []

        def judge() -> str:
            calls.append(1)
            return "as recorded"

        for _ in range(2):
            scans = Scans(workspace.layout)
            assert scans.check("o", fingerprint="f", size=1, judge=judge) == "as recorded"
            scans.save()
        assert len(calls) == 1
        assert Scans(workspace.layout).check("o", fingerprint="g", size=1, judge=lambda: "changed") == "changed"
        assert Scans(workspace.layout, budget_bytes=0).check("p", fingerprint="f", size=1, judge=judge) is None


def test_a_publication_that_was_cut_off_may_be_all_there_is_to_do(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish"})
    journal = workspace.layout.journal("letters", experiment=EXPERIMENT)
    write_durably(journal, b"{}")
    found = plan(workspace)
    assert kinds(found, "letters") == ["interrupted", "missing"]
    assert [verdict.certain for verdict in found.pending] == [False, True, True]


def test_table_of_a_choice_is_not_listed_beside_the_choice() -> None:
    old = {"backend": "a", "a": {"size": 1}, "share": 0.5}
    assert compare_values(old, {"backend": "b", "b": {"size": 1}, "share": 0.5}) == [("backend", "a", "b")]
    assert compare_values(old, {**old, "a": {"size": 2}}) == [("a.size", 1, 2)]
    assert compare_values(old, {**old, "more": {"size": 2}}) == [("more", None, {"size": 2})]
