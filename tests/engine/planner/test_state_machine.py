"""Anything may happen to a data root in any order; what the plan says stays true, and one launch mends it.

The ledger (`testing.ledger`) knows what is stale and what a run computes without planner, records or keys; after every
rule the plan must say the same. What lies on the disk is read and compared with it, and made again in a second root.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from morphseq_dagster.errors import MorphseqError
from tests.support.data_root_harm import DataRoot
from tests.support.faults import FAULTS


class TestDataRoot(DataRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestDataRootAtLength(DataRoot.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, replacement in FAULTS[fault]:
        monkeypatch.setattr(module, name, replacement)
    search = settings(max_examples=150, stateful_step_count=40, derandomize=True, phases=[Phase.generate])
    search = settings(search, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    with pytest.raises((AssertionError, MorphseqError, pytest.fail.Exception)):
        run_state_machine_as_test(DataRoot, settings=search)
