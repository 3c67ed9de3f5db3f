from __future__ import annotations

import pytest

from morphseq_dagster.runs.run_mode import MOST_SINGLE_RUNS, wants_bulk

NAMES = [f"202404{day:02d}" for day in range(1, 12)]


def place_of(step: str, experiment: str) -> str:
    """Step `far` is at the cluster, but for the last experiment."""
    return "slurm" if step == "far" and experiment != NAMES[-1] else "process"


@pytest.mark.parametrize(
    ("far", "near", "expected"),
    [
        (8, 0, False),
        (9, 0, True),
        (8, 2, False),  # what runs on this machine does not count
        (9, 1, True),
    ],
)
def test_more_than_eight_experiments_with_steps_at_the_cluster_go_as_one(far: int, near: int, expected: bool) -> None:
    chains = {name: ("near", "far") if number < far else ("near",) for number, name in enumerate(NAMES[: far + near])}
    assert MOST_SINGLE_RUNS == 8
    assert wants_bulk(chains, place_of=place_of) is expected


def test_place_of_each_experiment_counts() -> None:
    nine = [*NAMES[:8], NAMES[-1]]
    assert not wants_bulk(dict.fromkeys(nine, ("far",)), place_of=place_of)
    assert wants_bulk(dict.fromkeys(NAMES[:9], ("far",)), place_of=place_of)


def test_jobs_that_go_on_need_one_run_over_all_as_soon_as_there_is_something_to_go_on_with() -> None:
    one, two = {NAMES[0]: ("near", "far")}, {NAMES[0]: ("far", "far")}
    assert not wants_bulk(two, place_of=place_of)
    assert wants_bulk(two, place_of=place_of, chained=True)
    assert not wants_bulk(one, place_of=place_of, chained=True)
    assert not wants_bulk({}, place_of=place_of, chained=True)
