"""A table that breaks its contract in several ways is refused with all of them named at once, and never published."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.contracts import (
    built_metadata,
    embryo_latents_final,
    embryo_metadata,
    latents,
    plate_metadata,
    qc_staged,
    sam2_metadata,
)
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root

CONTRACTS: dict[str, TableContract] = {
    "plate_metadata": plate_metadata.CONTRACT,
    "built_metadata": built_metadata.CONTRACT,
    "sam2_metadata": sam2_metadata.CONTRACT,
    "embryo_metadata": embryo_metadata.CONTRACT,
    "qc_staged": qc_staged.CONTRACT,
    "latents": latents.CONTRACT,
    "embryo_latents_final": embryo_latents_final.CONTRACT,
}


def read_published(finished_frames: Path, step: str) -> pd.DataFrame:
    path = open_data_root(finished_frames).output(step, experiment=FRAMES_EXPERIMENT)
    return CONTRACTS[step].decode(path.read_bytes(), where=str(path))


@pytest.mark.parametrize("step", CONTRACTS)
def test_published_table_fulfils_its_contract_and_reads_back_to_the_same_bytes(
    finished_frames: Path, step: str
) -> None:
    path = open_data_root(finished_frames).output(step, experiment=FRAMES_EXPERIMENT)
    assert CONTRACTS[step].encode(read_published(finished_frames, step), where=step) == path.read_bytes()


@pytest.mark.parametrize("step", CONTRACTS)
def test_every_violation_of_a_table_is_named_at_once(finished_frames: Path, step: str) -> None:
    contract = CONTRACTS[step]
    table = read_published(finished_frames, step)
    required = [column for column in contract.columns if not column.nullable and column.name not in contract.key]
    ranged = [column for column in contract.columns if column.minimum is not None and column.name not in contract.key]
    expected = []
    if len(required) > 1:
        table = table.drop(columns=required[-1].name)
        expected.append(f"column {required[-1].name} is missing")
    blank = required[0].name
    table[blank] = table[blank].astype("object")
    table.loc[1, blank] = pd.NA
    expected.append(blank)
    for column in [c for c in ranged if c.name in table.columns and c.name != blank][:2]:
        table[column.name] = table[column.name].astype("float64").fillna(1.0)
        table.loc[0, column.name] = (column.minimum or 0) - 1
        expected.append(f"{column.name}: greater_than_or_equal_to({column.minimum}")
    table = pd.concat([table, table.iloc[[2]]], ignore_index=True)
    if not contract.extra:
        table["stranger"] = 1
        expected.append("column stranger is not part of the contract")
    with pytest.raises(ContractError) as caught:
        contract.encode(table, where=f"{step}.csv")
    missing = [words for words in expected if words not in caught.value.found]
    assert missing == [], caught.value.found
    for name in contract.key:
        assert name in caught.value.found, "the row that is there twice"
    assert caught.value.where == f"{step}.csv"
    assert "earlier version" in caught.value.remedy
