"""Assets of the toy pipeline in a real Dagster instance: memo, force, failures, claims, places."""

from __future__ import annotations

import pytest

from morphseq_dagster.engine.storage import commit as commit_module
from morphseq_dagster.engine.storage.step_locks import read_lock
from tests.support.toy_runs import EXPERIMENT, STEPS, Runs, computed, failed, materializations, published


def test_first_run_publishes_everything_and_says_what_it_made(runs: Runs) -> None:
    result = runs.run()
    assert computed(result) == STEPS
    made = materializations(result)["lengths"]
    record = runs.record("lengths")
    assert made.metadata["dagster/row_count"].value == 2
    assert made.metadata["path"].value == str(runs.primary("lengths"))
    assert made.metadata["status"].value == "ok"
    tags = made.tags or {}
    assert tags["dagster/data_version"] == record.data_version
    assert tags["dagster/code_version"] == "1"
    assert record.recipe_hash.startswith(tags["morphseq/recipe"])
    assert runs.record("letters").data_version.startswith(tags["morphseq/in.letters"])
    assert record.run_id == result.run_id
    assert runs.temporaries == []
    for step in STEPS:
        assert read_lock(runs.workspace.layout.lock(step, experiment=EXPERIMENT)) is None


def test_second_run_hits_everywhere_with_equal_versions_and_touches_no_file(runs: Runs) -> None:
    first = materializations(runs.run())
    before = {p: p.stat().st_mtime_ns for p in runs.workspace.data_root.rglob("*") if ".morphseq" not in p.parts}
    result = runs.run()
    assert computed(result) == []
    for step, made in materializations(result).items():
        assert (made.tags or {})["dagster/data_version"] == (first[step].tags or {})["dagster/data_version"]
        assert made.metadata["nothing changed"].value is True
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_force_tag_computes_the_named_steps_alone(runs: Runs) -> None:
    runs.run()
    assert computed(runs.run(tags={"morphseq/force": "lengths"})) == ["lengths"]
    assert computed(runs.run(tags={"morphseq/force": "letters.summary"})) == ["letters", "summary"]
    assert computed(runs.run(tags={"morphseq/force": "all"})) == STEPS
    assert computed(runs.run()) == []


def test_change_of_input_and_recipe_runs_what_it_touches(runs: Runs) -> None:
    runs.run()
    runs.words(A01="fish", A02="fan")
    assert computed(runs.run()) == ["letters", "lengths"]
    recipe = runs.workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nupper = true\n")
    assert computed(runs.run()) == ["letters", "lengths"]
    assert (runs.workspace.data_root / "letters" / EXPERIMENT / "A01.txt").read_text() == "FISH"


def test_one_step_alone_takes_its_input_from_the_disk(runs: Runs) -> None:
    runs.run()
    runs.primary("summary").unlink()
    result = runs.run(only=["summary"])
    assert result.success
    assert list(materializations(result)) == ["summary"]
    assert runs.primary("summary").exists()


def test_missing_upstream_names_artifact_and_command(runs: Runs) -> None:
    told = failed(runs.run(only=["summary"]))
    assert told["step"] == "summary"
    assert "the artifact lengths" in told["text"]
    assert "morphseq materialize" in told["text"]


def test_failing_well_is_named_with_its_reason_and_the_run_succeeds_degraded(runs: Runs) -> None:
    runs.words(A01="fish", A02="fail", A03="fin")
    result = runs.run()
    assert computed(result) == STEPS
    made = materializations(result)["letters"]
    assert made.metadata["status"].value == "degraded"
    assert "A02" in str(made.metadata["failed wells"].value)
    assert "write another word" in str(made.metadata["failed wells"].value)
    assert runs.record("letters").wells["A02"].reason
    again = runs.run()
    assert computed(again) == []
    assert "A02" in str(materializations(again)["letters"].metadata["failed wells"].value)


def test_too_many_failing_wells_fail_the_step_with_all_names_and_nothing_downstream_runs(runs: Runs) -> None:
    runs.run()
    good = published(runs.workspace.data_root)
    runs.words(A01="fail", A02="fail", A03="fin")
    result = runs.run()
    told = failed(result)
    assert told["step"] == "letters"
    assert {"expected", "found", "where", "remedy"} <= set(told["data"].metadata)
    assert "A01" in told["text"]
    assert "A02" in told["text"]
    assert materializations(result) == {}
    failure = runs.failure("letters")
    assert failure is not None
    assert (failure.run_id, failure.tries, failure.error.kind) == (result.run_id, 1, "permanent")
    changed = {k for k, v in published(runs.workspace.data_root).items() if good.get(k) != v}
    assert changed == {f"words/{EXPERIMENT}.txt"}


def test_transient_well_is_tried_three_times_in_all(runs: Runs) -> None:
    runs.words(A01="fish", A02="busy", A03="fin")
    assert computed(runs.run()) == STEPS
    assert computed(runs.run()) == ["letters"]
    assert computed(runs.run()) == ["letters"]
    assert runs.record("letters").wells["A02"].tries == 3
    assert computed(runs.run()) == []
    runs.words(A01="fish", A02="calm", A03="fin")
    assert computed(runs.run()) == STEPS
    assert runs.record("letters").status == "ok"


def test_failing_commit_leaves_a_failure_record_the_old_version_and_a_free_claim(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run()
    good = {k: v for k, v in published(runs.workspace.data_root).items() if not k.startswith("words")}
    runs.words(A01="whale", A02="fin")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device", str(runs.workspace.data_root))

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "write_durably", refuse)
        result = runs.run()
    told = failed(result)
    assert "No space left on device" in told["text"]
    assert "free space" in told["text"]
    failure = runs.failure("letters")
    assert failure is not None
    assert (failure.error.kind, failure.tries, failure.run_id) == ("transient", 1, result.run_id)
    assert {k: v for k, v in published(runs.workspace.data_root).items() if not k.startswith("words")} == good
    assert read_lock(runs.workspace.layout.lock("letters", experiment=EXPERIMENT)) is None
    assert runs.temporaries == []
    assert computed(runs.run()) == STEPS
    assert runs.failure("letters") is None


def test_commit_interrupted_after_its_journal_is_finished_by_the_next_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run()
    runs.words(A01="whale", A02="fin")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "replace_folder", refuse)
        assert "Input/output error" in failed(runs.run())["text"]
    assert runs.temporaries != [], "what the journal promises is kept"
    assert computed(runs.run()) == ["lengths", "summary"], "the staged result of the failed run was published"
    assert runs.temporaries == []
    assert runs.failure("letters") is None


def test_upstream_changed_behind_the_pipeline_s_back_is_made_again_not_read(runs: Runs) -> None:
    runs.run()
    good = published(runs.workspace.data_root)
    picture = runs.workspace.data_root / "letters" / EXPERIMENT / "A01.txt"
    picture.unlink()
    picture.write_text("fake")
    told = failed(runs.run(only=["lengths"], tags={"morphseq/force": "lengths"}))
    assert f"letters/{EXPERIMENT}/A01.txt" in told["text"], "the wrong input is named"
    assert runs.failure("lengths") is not None
    # The output of `lengths` was not touched, and its recorded input is what the record of `letters` says.
    assert computed(runs.run()) == ["letters"]
    assert published(runs.workspace.data_root) == good


def test_manifest_of_other_content_is_refused_by_name_and_hash(runs: Runs) -> None:
    runs.run()
    manifest = runs.primary("letters")
    manifest.write_bytes(manifest.read_bytes().replace(b"{", b"{ ", 1))
    told = failed(runs.run(only=["lengths"], tags={"morphseq/force": "lengths"}))
    assert manifest.name in told["text"]
    assert runs.record("letters").output.sha256[:12] in told["text"]


def test_path_trick_as_partition_touches_nothing_outside(runs: Runs) -> None:
    runs.instance.add_dynamic_partitions("experiment", ["../../evil"])
    before = sorted(runs.workspace.data_root.parent.rglob("*"))
    told = failed(runs.run(partition="../../evil", only=["letters"]))
    assert "an experiment such as" in told["text"]
    assert sorted(runs.workspace.data_root.parent.rglob("*")) == before


def test_failure_only_allows_retries_when_it_is_transient(runs: Runs) -> None:
    from morphseq_dagster.assets.description import failure_of
    from morphseq_dagster.errors import ContractError, PermanentError, TransientError

    parts = {"expected": "a", "found": "b", "where": "c", "remedy": "d"}
    assert failure_of(TransientError(**parts)).allow_retries
    assert not failure_of(PermanentError(**parts)).allow_retries
    assert not failure_of(ContractError(**parts)).allow_retries


def test_assets_mirror_the_pipeline(runs: Runs) -> None:
    specs = {spec.key.to_user_string(): spec for spec in runs.definitions.resolve_all_asset_specs()}
    assert sorted(specs) == sorted(STEPS)
    for step in runs.workspace.pipeline.steps:
        spec = specs[step.name]
        assert {d.asset_key.to_user_string() for d in spec.deps} == set(step.inputs)
        assert spec.code_version == str(step.version)
        assert spec.description == runs.workspace.layout.artifact(step.name).description
        assert spec.group_name == step.group
