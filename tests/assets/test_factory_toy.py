"""Assets of the toy pipeline in a real Dagster instance: memo, force, failures, claims, places."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.storage import commit as commit_module
from morphseq_dagster.engine.storage.records import Failure, Record, read_failure, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock, read_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import register_keys
from morphseq_dagster.settings.machine import MachineSettings
from morphseq_dagster.testing.chain import TOY, open_toy, write_words

EXPERIMENT = "20240418"
STEPS = ["letters", "lengths", "summary"]


class Runs:
    """One data root with its Definitions and an instance of its own."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, **settings: object) -> None:
        self.workspace: Workspace = open_toy(root)
        self.instance = instance
        self.definitions = build_definitions(
            MachineSettings.model_validate({"data_root": root, **settings}), pipeline=TOY
        )
        register_keys(instance, [EXPERIMENT], pipeline=MORPHSEQ)

    def words(self, **words: str) -> None:
        write_words(self.workspace.layout, EXPERIMENT, words=words)

    def run(
        self, *, tags: dict[str, str] | None = None, only: list[str] | None = None, partition: str = EXPERIMENT
    ) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(PIPELINE_JOB)
        return job.execute_in_process(
            instance=self.instance,
            partition_key=partition,
            tags=tags,
            asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            raise_on_error=False,
        )

    def record(self, step: str) -> Record:
        found = read_record(self.workspace.layout, primary=self.primary(step))
        assert found is not None
        return found

    def failure(self, step: str) -> Failure | None:
        return read_failure(self.workspace.layout, primary=self.primary(step))

    def primary(self, step: str) -> Path:
        return self.workspace.output(self.workspace.pipeline.spec(step), experiment=EXPERIMENT)

    @property
    def temporaries(self) -> list[Path]:
        return sorted(self.workspace.data_root.rglob("*.tmp"))


def materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    events = result.get_asset_materialization_events()
    return {str(e.asset_key.path[-1]): e.materialization for e in events if e.asset_key is not None}


def computed(result: dg.ExecuteInProcessResult) -> list[str]:
    assert result.success
    found = materializations(result)
    assert sorted(found) == sorted(STEPS)
    return [step for step in STEPS if (found[step].tags or {}).get("morphseq/memo") != "hit"]


def failed(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert not result.success
    (event,) = [e for e in result.all_events if e.is_step_failure]
    assert event.step_key is not None
    data = event.step_failure_data
    words = [data.error.to_string()] if data.error is not None else []
    if data.user_failure_data is not None:
        words.append(str(data.user_failure_data.description))
        words += [str(value.value) for value in data.user_failure_data.metadata.values()]
    return {"step": event.step_key, "text": "\n".join(words), "data": data.user_failure_data}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def runs(tmp_path: Path, instance: dg.DagsterInstance) -> Runs:
    runs = Runs(tmp_path / "root", instance)
    runs.words(A01="fish", A02="fin")
    return runs


def published(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".morphseq" not in p.parts and not p.name.endswith((".provenance.json", ".failure.json"))
    }


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


def _hold(path: Path, ready: Event, release: Event) -> None:
    with hold_lock(path, run_id="the-other-run"):
        ready.set()
        release.wait(60)


def test_run_waits_for_the_claim_of_another_and_shows_it(runs: Runs) -> None:
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()
    claim = runs.workspace.layout.lock("letters", experiment=EXPERIMENT)
    other = fork.Process(target=_hold, args=(claim, ready, release))
    other.start()
    assert ready.wait(30)
    later = fork.Process(target=_release_when_waited_for, args=(claim.parent, release))
    later.start()
    result = runs.run()
    other.join(30)
    later.join(30)
    assert later.exitcode == 0
    assert computed(result) == STEPS
    logs = runs.instance.all_logs(result.run_id)
    assert any("the-other-run" in entry.user_message for entry in logs)


def _release_when_waited_for(folder: Path, release: Event) -> None:
    """Let the holder go soon after somebody asked whether it is dead, that is, met the claim and shows it."""
    for _ in range(3000):
        if (folder / ".breaking.lock").exists():
            time.sleep(0.5)
            release.set()
            return
        time.sleep(0.01)
    raise SystemExit("nobody waited")


def _run_in_a_process(root: Path, start: Event, codes: Queue[list[str]]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(root, instance)
        start.wait(60)
        codes.put(computed(runs.run()))


def test_two_runs_at_once_compute_each_step_once(runs: Runs) -> None:
    fork = multiprocessing.get_context("fork")
    runs.words(**{f"A{n:02d}": f"word{n}" for n in range(1, 9)})
    start, made = fork.Event(), fork.Queue()
    both = [fork.Process(target=_run_in_a_process, args=(runs.workspace.data_root, start, made)) for _ in range(2)]
    for process in both:
        process.start()
    start.set()
    first, second = made.get(timeout=120), made.get(timeout=120)
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(first + second) == sorted(STEPS)
    assert computed(runs.run()) == []


def test_process_subprocess_and_another_root_give_the_same_bytes(
    runs: Runs, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    runs.run()
    other = Runs(tmp_path / "another root" / "ü", instance, place="subprocess")
    other.words(A01="fish", A02="fin")
    result = other.run()
    assert computed(result) == STEPS
    assert published(other.workspace.data_root) == published(runs.workspace.data_root)
    assert {other.record(step).place for step in STEPS} == {"subprocess"}
    for step in STEPS:
        assert other.record(step).data_version == runs.record(step).data_version
    assert computed(other.run()) == []


def test_child_killed_by_the_system_is_told_as_transient_with_its_remedy(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    runs = Runs(tmp_path / "root", instance, places={"letters": "subprocess"})
    runs.words(A01="fish", A02="kill")
    told = failed(runs.run())
    assert told["step"] == "letters"
    assert "SIGKILL" in told["text"]
    assert "memory" in told["text"]
    assert told["data"].metadata["remedy"].value
    failure = runs.failure("letters")
    assert failure is not None
    assert (failure.error.kind, failure.tries) == ("transient", 1)
    assert read_lock(runs.workspace.layout.lock("letters", experiment=EXPERIMENT)) is None
    runs.words(A01="fish", A02="fin")
    assert computed(runs.run()) == STEPS
    assert runs.record("letters").counts["computed"] == 1, "the well finished before the kill was kept"


def test_error_of_a_child_fails_the_asset_with_its_parts(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    runs = Runs(tmp_path / "root", instance, place="subprocess")
    runs.words(A01="fail", A02="fail")
    told = failed(runs.run())
    assert told["data"].metadata["found"].value.startswith("2 failed")
    failure = runs.failure("letters")
    assert failure is not None
    assert failure.tries == 1


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
