from __future__ import annotations

import pytest

from morphseq_dagster.engine.layout import ARTIFACTS
from morphseq_dagster.engine.tables.check import check_bytes, find_contract
from morphseq_dagster.engine.tables.image_set import ImageSetManifest
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError


@pytest.mark.parametrize("name", sorted(ARTIFACTS))
def test_every_artifact_has_a_contract_of_its_kind(name: str) -> None:
    contract = find_contract(name)
    assert contract is not None
    if ARTIFACTS[name].kind == "table":
        assert isinstance(contract, TableContract)
        assert contract.name == name
    else:
        assert isinstance(contract, type)
        assert issubclass(contract, ImageSetManifest) is (ARTIFACTS[name].kind == "image_set")


def test_an_artifact_of_another_registry_has_none() -> None:
    assert find_contract("letters") is None
    with pytest.raises(ContractError, match="no contract"):
        check_bytes(b"", artifact="letters", experiment="20240418", where="f")


def test_a_table_of_another_experiment_is_refused() -> None:
    data = b"experiment_date,embryo_id,snip_id\n20240418,e,s\n20240419,e,t\n"
    with pytest.raises(ContractError, match="20240419"):
        check_bytes(data, artifact="latents", experiment="20240418", where="f")
    check_bytes(data.replace(b"20240419", b"20240418"), artifact="latents", experiment="20240418", where="f")
