"""Well by well: reuse, checkpoints, isolation of failures, and when a step gives up."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest, StepResult
from morphseq_dagster.engine.contract.wells import WellRun, WellTask, map_wells
from morphseq_dagster.engine.executors.execution import execute_body, publish
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError

EXPERIMENT = "20240418"
WELLS = ("A01", "A02", "A03", "A04")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Letters:
    """The toy step `letters` with a body that each test chooses, published by hand."""

    workspace: Workspace
    computed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=lambda: dict.fromkeys(WELLS, "1"))
    errors: dict[str, BaseException] = field(default_factory=dict)
    restores: bool = True
    progress: list[Progress] = field(default_factory=list)

    def request(self, **changes: object) -> StepRequest:
        base = StepRequest(
            experiment=EXPERIMENT,
            step="letters",
            version=1,
            recipe={},
            inputs=(),
            output=f"letters/{EXPERIMENT}/letters_manifest_{EXPERIMENT}.json",
            data_root=str(self.workspace.data_root),
        )
        return base.model_copy(update=changes)

    def context(self, request: StepRequest) -> StepContext:
        return StepContext(request, layout=self.workspace.layout, progress=self.progress.append)

    def run(self, *, share: float = 0.5, request: StepRequest | None = None) -> WellRun:
        self.computed, self.restored = [], []
        context = self.context(request or self.request())
        folder = context.layout.folders("letters", experiment=EXPERIMENT)[0]

        def compute(task: WellTask, _: None) -> WellPayload:
            self.computed.append(task.well)
            if task.well in self.errors:
                raise self.errors[task.well]
            return WellPayload({"inputs": task.inputs}, {f"{task.well}.txt": str(task.inputs).encode()})

        def restore(task: WellTask) -> WellPayload | None:
            self.restored.append(task.well)
            path = folder / f"{task.well}.txt"
            return WellPayload({"inputs": task.inputs}, {path.name: path}) if self.restores else None

        return map_wells(
            context,
            tasks=[WellTask(well, value) for well, value in self.inputs.items()],
            compute=compute,
            load=lambda _: None,
            state=None,
            restore=restore,
            max_failed_share=share,
        )

    def publish(self, **changes: object) -> Record:
        """Run and publish; the failing wells are left out of the artifact."""
        request = self.request(**changes)
        context = self.context(request)
        folder = context.layout.folders("letters", experiment=EXPERIMENT)[0]

        def body(_: StepContext) -> StepResult:
            run = self.run(request=request)
            files = {folder / n: Path(str(p)) for payload in run.payloads.values() for n, p in payload.files.items()}
            entries = {
                context.layout.relative(target): FileEntry(
                    sha256=hash_bytes(path.read_bytes()), size=path.stat().st_size
                )
                for target, path in sorted(files.items())
            }
            manifest = ImageSetManifest(experiment_id=EXPERIMENT, files=entries)
            return context.stage_images(files, manifest=manifest, folders=(folder,), account=Account(wells=run.states))

        spec: Any = _Spec(body)
        executed = execute_body(spec, request=request, layout=context.layout, place="process")
        return publish(context.layout, executed=executed)


@dataclass
class _Spec:
    """A step of which the test brings the body."""

    body: Callable[[StepContext], StepResult]
    name: str = "letters"
    version: int = 1

    def load(self) -> Callable[[StepContext], StepResult]:
        return self.body


@pytest.fixture
def letters(workspace: Workspace) -> Letters:
    return Letters(workspace)


def transient(well: str) -> TransientError:
    return TransientError(expected="a device", found="none", where=well, remedy="try again")


def permanent(well: str) -> PermanentError:
    return PermanentError(expected="light", found="dark", where=well, remedy="new picture")


def test_all_wells_are_computed_in_order_and_told(letters: Letters) -> None:
    run = letters.run()
    assert letters.computed == list(WELLS) == list(run.payloads)
    assert run.computed == 4
    assert [(p.done, p.total, p.label) for p in letters.progress] == [(n + 1, 4, well) for n, well in enumerate(WELLS)]
    assert {state.status for state in run.states.values()} == {"ok"}


@pytest.mark.parametrize("kill_at", WELLS)
def test_killed_run_loses_the_well_in_hand_alone(letters: Letters, kill_at: str) -> None:
    letters.errors = {kill_at: Killed()}
    with pytest.raises(Killed):
        letters.run()
    done = letters.computed[:-1]
    letters.errors = {}
    run = letters.run()
    assert letters.computed == [well for well in WELLS if well not in done]
    assert list(run.payloads) == list(WELLS), "in the order of the tasks, whatever was finished before"
    assert {well: payload.data for well, payload in run.payloads.items()} == {well: {"inputs": "1"} for well in WELLS}


def test_unchanged_wells_are_taken_from_the_published_artifact(letters: Letters) -> None:
    letters.publish()
    letters.inputs["A02"] = "2"  # a repaired well
    letters.inputs["A05"] = "1"  # a growing acquisition
    record = letters.publish()
    assert letters.computed == ["A02", "A05"]
    assert letters.restored == ["A01", "A03", "A04"]
    assert record.status == "ok"
    folder = letters.workspace.layout.folders("letters", experiment=EXPERIMENT)[0]
    assert {p.stem: p.read_text() for p in folder.glob("*.txt")} == {
        "A01": "1", "A02": "2", "A03": "1", "A04": "1", "A05": "1",
    }  # fmt: skip


def test_well_that_is_gone_from_the_input_is_gone_from_the_artifact(letters: Letters) -> None:
    letters.publish()
    del letters.inputs["A03"]
    record = letters.publish()
    assert letters.computed == []
    assert sorted(record.wells) == ["A01", "A02", "A04"]
    folder = letters.workspace.layout.folders("letters", experiment=EXPERIMENT)[0]
    assert sorted(p.stem for p in folder.glob("*.txt")) == ["A01", "A02", "A04"]


@pytest.mark.parametrize("change", [{"version": 2}, {"recipe": {"upper": True}}, {"force": True}])
def test_new_version_new_recipe_and_force_compute_every_well(letters: Letters, change: dict[str, object]) -> None:
    letters.publish()
    letters.run(request=letters.request(**change))
    assert letters.computed == list(WELLS)
    assert letters.restored == []


def test_well_that_the_published_artifact_cannot_give_back_is_computed(letters: Letters) -> None:
    letters.publish()
    letters.restores = False
    letters.run()
    assert letters.computed == list(WELLS)


def test_changed_artifact_is_no_source_of_wells(letters: Letters) -> None:
    letters.publish()
    folder = letters.workspace.layout.folders("letters", experiment=EXPERIMENT)[0]
    (folder / "A01.txt").unlink()
    (folder / "A01.txt").write_text("by hand")
    letters.run()
    assert letters.computed == list(WELLS)
    assert letters.restored == []


def test_failing_well_is_a_state_with_its_reason_and_the_others_go_on(letters: Letters) -> None:
    letters.errors = {"A02": permanent("A02"), "A03": ZeroDivisionError("division by zero")}
    run = letters.run()
    assert list(run.payloads) == ["A01", "A04"]
    states = {well: (s.status, s.transient) for well, s in run.states.items()}
    assert states == {
        "A01": ("ok", False), "A02": ("failed", False), "A03": ("failed", False), "A04": ("ok", False),
    }  # fmt: skip
    assert "dark" in run.states["A02"].reason
    # An unexpected error names its place in the code.
    assert "ZeroDivisionError" in run.states["A03"].reason
    assert "test_wells.py:" in run.states["A03"].reason


def test_reason_of_a_failed_well_does_not_say_where_the_data_root_lies(letters: Letters) -> None:
    where = str(letters.workspace.data_root / "words" / "a.txt")
    letters.errors = {"A02": PermanentError(expected="light", found="dark", where=where, remedy="switch it on")}
    reason = letters.run().states["A02"].reason
    assert reason.startswith("words/a.txt: expected light; found dark")


def test_too_many_failing_wells_fail_the_step_naming_each(letters: Letters) -> None:
    letters.errors = {well: permanent(well) for well in ("A01", "A03")}
    assert len(letters.run(share=0.5).payloads) == 2, "the share itself is tolerated"
    with pytest.raises(PermanentError) as caught:
        letters.run(share=0.49)
    assert "A01: " in caught.value.found
    assert "A03: " in caught.value.found
    assert "A02" not in caught.value.found
    assert "2 failed" in caught.value.found
    letters.errors = {}
    letters.run(share=0.49)
    assert letters.computed == ["A01", "A03"], "the finished wells were kept"


@pytest.mark.parametrize(
    ("kinds", "expected"), [("tt", TransientError), ("tp", PermanentError), ("pp", PermanentError)]
)
def test_failure_of_the_step_is_transient_only_when_every_failed_well_is(
    letters: Letters, kinds: str, expected: type[MorphseqError]
) -> None:
    letters.errors = {
        well: transient(well) if kind == "t" else permanent(well) for well, kind in zip(WELLS, kinds, strict=False)
    }
    with pytest.raises(MorphseqError) as caught:
        letters.run(share=0.1)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EIO, "broken"),
        OSError(errno.EROFS, "read-only"),
        OSError(errno.EFBIG, "large"),
        MemoryError(),
    ],
)
def test_trouble_of_the_machine_stops_the_step_and_is_not_blamed_on_the_well(
    letters: Letters, error: Exception
) -> None:
    letters.errors = {"A03": error}
    with pytest.raises(type(error)):
        letters.run(share=1.0)
    assert letters.computed == ["A01", "A02", "A03"]
    letters.errors = {}
    letters.run()
    assert letters.computed == ["A03", "A04"]


def test_transient_well_is_tried_again_and_its_tries_are_counted(letters: Letters) -> None:
    letters.errors = {"A02": transient("A02"), "A03": permanent("A03")}
    for tries in (1, 2, 3):
        record = letters.publish()
        assert record.status == "degraded"
        assert (record.wells["A02"].tries, record.wells["A02"].transient) == (tries, True)
        assert letters.computed == (list(WELLS) if tries == 1 else ["A02", "A03"])
    letters.inputs["A02"] = "2"
    record = letters.publish()
    assert record.wells["A02"].tries == 1, "a repaired well starts anew"
    letters.errors = {}
    record = letters.publish()
    assert record.status == "ok"


def test_step_without_wells_succeeds_empty(letters: Letters) -> None:
    letters.inputs = {}
    run = letters.run(share=0.0)
    assert run.payloads == {}
    assert run.states == {}
