"""The workbench: every input is compared with the request, every output is checked before it is staged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.contracts.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.steps.contract import StepRequest
from morphseq_dagster.steps.workbench import Account, Workbench
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.hashing import hash_bytes
from morphseq_dagster.storage.records import WellState
from morphseq_dagster.testing.chain import run_chain, write_words
from morphseq_dagster.testing.toy import LENGTHS, TOY_REGISTRY, LettersRecipe, Summary

EXPERIMENT = "20240418"


@pytest.fixture
def bench(workspace: Workspace) -> Workbench:
    """A bench that has all artifacts of the toy chain as inputs and makes the table."""
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    run_chain(workspace, EXPERIMENT)
    requests = {n: workspace.request(workspace.registry.spec(n), experiment=EXPERIMENT) for n in ("letters", "lengths")}
    request = requests["lengths"].model_copy(
        update={
            "inputs": (
                *requests["letters"].inputs,
                *requests["lengths"].inputs,
                *workspace.request(workspace.registry.spec("summary"), experiment=EXPERIMENT).inputs,
            ),
            "recipe": requests["letters"].recipe,
        }
    )
    return Workbench(request, artifacts=TOY_REGISTRY.artifacts)


def path_of(bench: Workbench, name: str) -> Path:
    return bench.layout.absolute(bench.input(name).path)


def temporaries(bench: Workbench) -> list[Path]:
    return sorted(bench.layout.data_root.rglob("*.tmp"))


def test_inputs_are_read_as_their_contracts_say(bench: Workbench) -> None:
    manifest = bench.document("letters", ImageSetManifest)
    assert sorted(manifest.files) == [f"letters/{EXPERIMENT}/A01.txt", f"letters/{EXPERIMENT}/A02.txt"]
    assert [bench.picture(p, entry=e) for p, e in sorted(manifest.files.items())] == [b"fish", b"fin"]
    assert bench.table("lengths", LENGTHS)["letters"].tolist() == [4, 3]
    assert bench.external("words") == path_of(bench, "words")
    assert bench.recipe(LettersRecipe) == LettersRecipe()
    with pytest.raises(KeyError, match="no input nothing"):
        bench.input("nothing")


@pytest.mark.parametrize("name", ["letters", "lengths", "words"])
def test_input_that_changed_since_the_request_is_refused_by_name(bench: Workbench, name: str) -> None:
    path = path_of(bench, name)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"fish", b"fowl").replace(b"4", b"5").replace(b"1", b"2"))
    with pytest.raises(PermanentError) as caught:
        {
            "letters": lambda: bench.document("letters", ImageSetManifest),
            "lengths": lambda: bench.table("lengths", LENGTHS),
            "words": lambda: bench.external("words"),
        }[name]()
    assert caught.value.where == bench.input(name).path
    assert str(bench.input(name).sha256)[:12] in caught.value.expected


@pytest.mark.parametrize("name", ["letters", "lengths", "words"])
def test_input_that_vanished_since_the_request_is_refused_by_name(bench: Workbench, name: str) -> None:
    path_of(bench, name).unlink()
    with pytest.raises(PermanentError) as caught:
        {
            "letters": lambda: bench.document("letters", ImageSetManifest),
            "lengths": lambda: bench.table("lengths", LENGTHS),
            "words": lambda: bench.external("words"),
        }[name]()
    assert caught.value.where == bench.input(name).path
    assert caught.value.found == "no file"


def test_changed_or_lost_picture_is_refused_by_name(bench: Workbench) -> None:
    path, entry = next(iter(bench.document("letters", ImageSetManifest).files.items()))
    bench.layout.absolute(path).write_bytes(b"fowl")
    with pytest.raises(PermanentError) as caught:
        bench.picture(path, entry=entry)
    assert caught.value.where == path
    bench.layout.absolute(path).unlink()
    with pytest.raises(PermanentError, match="no file"):
        bench.picture(path, entry=entry)


def test_absent_optional_file_is_none(bench: Workbench) -> None:
    absent = bench.input("words").model_copy(update={"sha256": None})
    request: StepRequest = bench.request.model_copy(update={"inputs": (absent,)})
    assert Workbench(request, artifacts=TOY_REGISTRY.artifacts).external("words") is None


def test_bad_table_is_never_staged(bench: Workbench) -> None:
    before = bench.primary.read_bytes()
    frame = pd.DataFrame({"well": ["A01", "A01"], "letters": [-1, 2], "share": [0.5, 2.0]})
    with pytest.raises(ContractError) as caught:
        bench.stage_table(frame, contract=LENGTHS)
    assert caught.value.where == bench.request.output
    assert all(word in caught.value.found for word in ("letters", "share", "well"))
    assert temporaries(bench) == []
    assert bench.primary.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_bad_document_is_never_staged(bench: Workbench) -> None:
    with pytest.raises(ContractError):
        bench.stage_document(Summary.model_construct(wells="many", letters=1))
    with pytest.raises(ContractError):
        bench.stage_document(Summary.model_construct(wells=float("nan"), letters=1))
    assert temporaries(bench) == []


def test_staged_table_tells_rows_and_hash(bench: Workbench) -> None:
    frame = pd.DataFrame({"well": ["A02", "A01"], "letters": [1, 3], "share": [0.25, 0.75]})
    staged = bench.stage_table(frame, contract=LENGTHS, account=Account(counts={"wells": 2})).staged
    assert staged.staged_primary.read_bytes() == b"well,letters,share\nA01,3,0.75\nA02,1,0.25\n"
    assert staged.sha256 == staged.data_version == hash_bytes(staged.staged_primary.read_bytes())
    assert dict(staged.counts) == {"rows": 2, "wells": 2}
    assert staged.status == "ok"
    staged.discard()


@pytest.mark.parametrize(("said", "told"), [("ok", "degraded"), ("unavailable", "unavailable")])
def test_failed_well_makes_the_output_degraded_unless_it_says_more(bench: Workbench, said: str, told: str) -> None:
    wells = {"A01": WellState(key="k", status="ok"), "A02": WellState(key="k", status="failed", reason="dark")}
    account = Account(wells=wells, status=said)  # type: ignore[arg-type]
    staged = bench.stage_document(Summary(wells=2, letters=3), data_version="own", account=account).staged
    assert staged.status == told
    assert staged.data_version == "own"
    staged.discard()


def test_image_set_whose_source_is_lost_leaves_nothing_staged(bench: Workbench, tmp_path: Path) -> None:
    folder = bench.layout.folders("letters", experiment=EXPERIMENT)[0]
    request = bench.request.model_copy(update={"output": bench.input("letters").path})
    images = Workbench(request, artifacts=TOY_REGISTRY.artifacts)
    manifest = ImageSetManifest(experiment_id=EXPERIMENT, files={"a": FileEntry(sha256="0", size=1)})
    with pytest.raises(FileNotFoundError):
        images.stage_images({folder / "x.txt": tmp_path / "lost"}, manifest=manifest, folders=(folder,))
    assert temporaries(bench) == []
