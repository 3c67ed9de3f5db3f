"""Slots of pools that dead runs hold, on a real instance with the shipped settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import dagster as dg
import pytest

from morphseq_dagster.cli.dead_runs import find_dead_slots
from morphseq_dagster.cli.launch import describe_process
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.runs.states import PROCESS_TAG

POOL, STEP = "gpu", "gdino_raw"


@dg.job
def nothing() -> None:
    pass


def dead_process() -> str:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return f"{host_name()}:{child.pid}:1"


@pytest.fixture
def hold(instance: dg.DagsterInstance) -> Callable[..., str]:
    """Starts a run and lets it take a slot of the pool, or stand in its queue when there is none left."""

    def hold(process: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> str:
        tags = {PROCESS_TAG: process, "dagster/partition": "20240418"}
        run = instance.create_run_for_job(nothing, tags=tags, status=status)
        instance.event_log_storage.initialize_concurrency_limit_to_default(POOL)
        instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, STEP)
        return run.run_id

    return hold


def claimed(instance: dg.DagsterInstance) -> list[str]:
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return sorted({slot.run_id for slot in info.claimed_slots} | {step.run_id for step in info.pending_steps})


def test_slot_of_a_killed_run_is_named_and_freed_for_the_next(
    say: Callable, instance: dg.DagsterInstance, hold: Callable[..., str]
) -> None:
    dead = hold(dead_process())
    alive = hold(describe_process())  # of one slot: it stands in the queue
    said = say("doctor")
    assert said.code == 1
    wanted = f"a slot of the pool gpu is held by run {dead} (20240418, {STEP}), whose process is gone"
    assert f"PROBLEM  {wanted}" in said.out
    assert alive not in said.out
    assert claimed(instance) == sorted([dead, alive]), "looking frees nothing"

    said = say("doctor", "--fix")
    assert said.code == 0, said.out
    assert f"fixed    {wanted}: freed" in said.out
    assert claimed(instance) == [alive]
    assert instance.event_log_storage.claim_concurrency_slot(POOL, alive, STEP).is_claimed
    assert say("doctor").code == 0


def test_slots_of_ended_and_deleted_runs_are_dead_too(
    say: Callable, instance: dg.DagsterInstance, hold: Callable[..., str]
) -> None:
    ended = hold(describe_process(), dg.DagsterRunStatus.FAILURE)
    instance.delete_run(deleted := hold(describe_process()))
    instance.event_log_storage.claim_concurrency_slot(POOL, deleted, STEP)
    reasons = {(slot.run_id, slot.reason, slot.waits) for slot in find_dead_slots(instance)}
    assert reasons == {
        (ended, "which has ended (failure)", False),
        (deleted, "which nobody knows any more", True),
    }
    assert say("doctor", "--fix").code == 0
    assert claimed(instance) == []


def test_slots_of_living_and_of_other_hosts_runs_are_left_alone(
    say: Callable, instance: dg.DagsterInstance, hold: Callable[..., str]
) -> None:
    runs = [hold("other-host:1:1"), hold(describe_process())]
    assert find_dead_slots(instance) == ()
    assert "slots of pools" in say("doctor", "--fix").out
    assert claimed(instance) == sorted(runs)
