"""The table of retries."""

from __future__ import annotations

import pytest

from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.retry import plan_retry
from morphseq_dagster.settings.job_values import Resources

ASKED = Resources(memory="2G", exclude="n9")


@pytest.mark.parametrize(
    "outcome",
    [
        JobOutcome.DONE,
        JobOutcome.FAILED,
        JobOutcome.KILLED,
        JobOutcome.CANCELLED,
        JobOutcome.CONFIG,
        JobOutcome.REJECTED,
    ],
)
def test_final_ends_are_never_tried_again(outcome: JobOutcome) -> None:
    assert plan_retry(outcome, earlier=(), resources=ASKED, node="n1") is None


@pytest.mark.parametrize(
    ("outcome", "times"),
    [
        (JobOutcome.NODE, 2),
        (JobOutcome.PREEMPTED, 2),
        (JobOutcome.LOST, 2),
        (JobOutcome.CRASH, 1),
        (JobOutcome.OOM, 1),
        (JobOutcome.TIMEOUT, 1),
    ],
)
def test_others_are_tried_again_so_many_times(outcome: JobOutcome, times: int) -> None:
    for count in range(4):
        planned = plan_retry(outcome, earlier=[outcome] * count, resources=ASKED)
        assert (planned is not None) == (count < times), count


def test_ends_of_another_kind_do_not_use_up_tries() -> None:
    assert plan_retry(JobOutcome.OOM, earlier=[JobOutcome.NODE, JobOutcome.NODE], resources=ASKED) is not None


@pytest.mark.parametrize("outcome", [JobOutcome.NODE, JobOutcome.CRASH])
def test_bad_node_is_kept_off(outcome: JobOutcome) -> None:
    planned = plan_retry(outcome, earlier=(), resources=ASKED, node="n1")
    assert planned is not None
    assert planned.exclude == "n9,n1"
    assert planned.memory == "2G"


def test_memory_is_doubled_where_the_step_allows_it_and_names_it() -> None:
    planned = plan_retry(JobOutcome.OOM, earlier=(), resources=ASKED)
    assert planned is not None
    assert planned.memory == "4G"
    assert plan_retry(JobOutcome.OOM, earlier=(), resources=ASKED, more_memory=False) is None
    assert plan_retry(JobOutcome.OOM, earlier=(), resources=Resources()) is None


def test_time_limit_is_tried_again_with_the_same_resources() -> None:
    assert plan_retry(JobOutcome.TIMEOUT, earlier=(), resources=ASKED) == ASKED
