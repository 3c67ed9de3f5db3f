from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Artifact
from morphseq_dagster.engine.tables.check import check_bytes, load_contract
from morphseq_dagster.engine.tables.image_set import ImageSetManifest
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.artifacts import ARTIFACTS
from morphseq_dagster.testing.toy import LENGTHS, TOY_PIPELINE


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda artifact: artifact.name)
def test_every_artifact_has_a_contract_of_its_kind(artifact: Artifact) -> None:
    contract = load_contract(artifact)
    if artifact.kind == "table":
        assert isinstance(contract, TableContract)
        assert contract.name == artifact.name
    else:
        assert isinstance(contract, type)
        assert issubclass(contract, ImageSetManifest) is (artifact.kind == "image_set")


def test_an_artifact_of_another_pipeline_brings_its_own() -> None:
    artifact = TOY_PIPELINE.layout(Path("/data")).artifact("lengths")
    assert load_contract(artifact) is LENGTHS
    with pytest.raises(ContractError, match="column letters is missing"):
        check_bytes(b"well,share\nA01,1\n", artifact=artifact, experiment="20240418", where="f")


LATENTS = next(artifact for artifact in ARTIFACTS if artifact.name == "latents")


def test_a_table_of_another_experiment_is_refused() -> None:
    data = b"experiment_date,embryo_id,snip_id\n20240418,e,s\n20240419,e,t\n"
    with pytest.raises(ContractError, match="20240419"):
        check_bytes(data, artifact=LATENTS, experiment="20240418", where="f")
    check_bytes(data.replace(b"20240419", b"20240418"), artifact=LATENTS, experiment="20240418", where="f")
