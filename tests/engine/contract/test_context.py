"""The workbench: every input is compared with the request, every output is checked before it is staged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import WellState
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.testing.chain import run_chain, write_words
from morphseq_dagster.testing.toy import LENGTHS, LettersRecipe, Summary

EXPERIMENT = "20240418"


@pytest.fixture
def context(workspace: Workspace) -> StepContext:
    """A context that has all artifacts of the toy chain as inputs and makes the table."""
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    run_chain(workspace, EXPERIMENT)
    requests = {n: workspace.request(workspace.pipeline.spec(n), experiment=EXPERIMENT) for n in ("letters", "lengths")}
    request = requests["lengths"].model_copy(
        update={
            "inputs": (
                *requests["letters"].inputs,
                *requests["lengths"].inputs,
                *workspace.request(workspace.pipeline.spec("summary"), experiment=EXPERIMENT).inputs,
            ),
            "recipe": requests["letters"].recipe,
        }
    )
    return StepContext(request, layout=workspace.layout)


class Versioned(Summary):
    """A summary that states its own version."""

    def stated_version(self) -> str:
        return "own"


def path_of(context: StepContext, name: str) -> Path:
    return context.layout.absolute(context.input(name).path)


def temporaries(context: StepContext) -> list[Path]:
    return sorted(context.layout.data_root.rglob("*.tmp"))


def test_inputs_are_read_as_their_contracts_say(context: StepContext) -> None:
    manifest = context.document("letters", ImageSetManifest)
    assert sorted(manifest.files) == [f"letters/{EXPERIMENT}/A01.txt", f"letters/{EXPERIMENT}/A02.txt"]
    assert [context.picture(p, entry=e) for p, e in sorted(manifest.files.items())] == [b"fish", b"fin"]
    assert context.table("lengths", LENGTHS)["letters"].tolist() == [4, 3]
    assert context.external("words") == path_of(context, "words")
    assert context.recipe(LettersRecipe) == LettersRecipe()
    with pytest.raises(KeyError, match="no input nothing"):
        context.input("nothing")


@pytest.mark.parametrize("name", ["letters", "lengths", "words"])
def test_input_that_changed_since_the_request_is_refused_by_name(context: StepContext, name: str) -> None:
    path = path_of(context, name)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"fish", b"fowl").replace(b"4", b"5").replace(b"1", b"2"))
    with pytest.raises(PermanentError) as caught:
        {
            "letters": lambda: context.document("letters", ImageSetManifest),
            "lengths": lambda: context.table("lengths", LENGTHS),
            "words": lambda: context.external("words"),
        }[name]()
    assert caught.value.where == context.input(name).path
    assert str(context.input(name).sha256)[:12] in caught.value.expected


@pytest.mark.parametrize("name", ["letters", "lengths", "words"])
def test_input_that_vanished_since_the_request_is_refused_by_name(context: StepContext, name: str) -> None:
    path_of(context, name).unlink()
    with pytest.raises(PermanentError) as caught:
        {
            "letters": lambda: context.document("letters", ImageSetManifest),
            "lengths": lambda: context.table("lengths", LENGTHS),
            "words": lambda: context.external("words"),
        }[name]()
    assert caught.value.where == context.input(name).path
    assert caught.value.found == "no file"


def test_changed_or_lost_picture_is_refused_by_name(context: StepContext) -> None:
    path, entry = next(iter(context.document("letters", ImageSetManifest).files.items()))
    context.layout.absolute(path).write_bytes(b"fowl")
    with pytest.raises(PermanentError) as caught:
        context.picture(path, entry=entry)
    assert caught.value.where == path
    context.layout.absolute(path).unlink()
    with pytest.raises(PermanentError, match="no file"):
        context.picture(path, entry=entry)


def test_absent_optional_file_is_none(context: StepContext) -> None:
    absent = context.input("words").model_copy(update={"sha256": None})
    request: StepRequest = context.request.model_copy(update={"inputs": (absent,)})
    assert StepContext(request, layout=context.layout).external("words") is None


def test_bad_table_is_never_staged(context: StepContext) -> None:
    before = context.primary.read_bytes()
    frame = pd.DataFrame({"well": ["A01", "A01"], "letters": [-1, 2], "share": [0.5, 2.0]})
    with pytest.raises(ContractError) as caught:
        context.stage_table(frame, contract=LENGTHS)
    assert caught.value.where == context.request.output
    assert all(word in caught.value.found for word in ("letters", "share", "well"))
    assert temporaries(context) == []
    assert context.primary.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_bad_document_is_never_staged(context: StepContext) -> None:
    with pytest.raises(ContractError):
        context.stage_document(Summary.model_construct(wells="many", letters=1))
    with pytest.raises(ContractError):
        context.stage_document(Summary.model_construct(wells=float("nan"), letters=1))
    assert temporaries(context) == []


def test_staged_table_tells_rows_and_hash(context: StepContext) -> None:
    frame = pd.DataFrame({"well": ["A02", "A01"], "letters": [1, 3], "share": [0.25, 0.75]})
    staged = context.stage_table(frame, contract=LENGTHS, account=Account(counts={"wells": 2})).staged
    assert staged.staged_primary.read_bytes() == b"well,letters,share\nA01,3,0.75\nA02,1,0.25\n"
    assert staged.sha256 == staged.data_version == hash_bytes(staged.staged_primary.read_bytes())
    assert dict(staged.counts) == {"rows": 2, "wells": 2}
    assert staged.status == "ok"
    staged.discard()


@pytest.mark.parametrize(("said", "told"), [("ok", "degraded"), ("unavailable", "unavailable")])
def test_failed_well_makes_the_output_degraded_unless_it_says_more(context: StepContext, said: str, told: str) -> None:
    wells = {"A01": WellState(key="k", status="ok"), "A02": WellState(key="k", status="failed", reason="dark")}
    account = Account(wells=wells, status=said)  # type: ignore[arg-type]
    staged = context.stage_document(Versioned(wells=2, letters=3), account=account).staged
    assert staged.status == told
    assert staged.data_version == "own"
    staged.discard()


def test_image_set_whose_source_is_lost_leaves_nothing_staged(context: StepContext, tmp_path: Path) -> None:
    folder = context.layout.folders("letters", experiment=EXPERIMENT)[0]
    request = context.request.model_copy(update={"output": context.input("letters").path})
    images = StepContext(request, layout=context.layout)
    manifest = ImageSetManifest(experiment_id=EXPERIMENT, files={"a": FileEntry(sha256="0", size=1)})
    with pytest.raises(FileNotFoundError):
        images.stage_images({folder / "x.txt": tmp_path / "lost"}, manifest=manifest, folders=(folder,))
    assert temporaries(context) == []
