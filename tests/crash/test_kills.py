"""SIGKILL at random moments of whole runs: old or new, no orphan after the sweep, and the next run heals everything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.support.crashes import Child, CrashSite


def kill_often(site: CrashSite, fork: Callable[..., Child], *, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    site.choose(0)
    site.run()
    site.choose(1)
    began = time.monotonic()
    site.run()
    whole_s = time.monotonic() - began
    killed = 0
    for number in range(10 * kills):
        if killed == kills:
            break
        target = number % 2
        site.choose(target)
        delay = chance.uniform(0, 1.5 * whole_s)
        told = f"seed {seed}, run {number}, killed after {delay * 1000:.1f} ms"
        child = fork()
        time.sleep(delay)
        child.kill()
        code = child.wait()
        assert code in (0, -9), f"{told}: ended with {code}: {child.message}"
        killed += code == -9
        site.check_old_or_new(told)
        site.check_healed(target, told)
    assert killed == kills, f"seed {seed}: only {killed} runs lived long enough to be killed"


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_runs_leave_old_or_new_and_heal(site: CrashSite, fork: Callable[..., Child], seed: int) -> None:
    kill_often(site, fork, kills=10, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_two_hundred_kills_leave_old_or_new_and_heal(site: CrashSite, fork: Callable[..., Child], seed: int) -> None:
    kill_often(site, fork, kills=20, seed=seed)


def test_kill_upon_kill_without_any_repair_between_still_heals(site: CrashSite, fork: Callable[..., Child]) -> None:
    # Nobody sweeps and nothing completes: claims, journals and temporaries of the dead pile up.
    seed = 7
    chance = random.Random(seed)
    site.choose(0)
    began = time.monotonic()
    site.run()
    whole_s = time.monotonic() - began
    for number in range(20):
        site.choose(number % 2)
        child = fork()
        time.sleep(chance.uniform(0, 0.7 * whole_s))
        child.kill()
        child.wait()
        site.check_old_or_new(f"seed {seed}, kill {number}")
    site.check_healed(19 % 2, f"seed {seed}, after 20 kills")
