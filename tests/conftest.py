"""What the whole suite shares: real data, a cluster, a finished experiment, markers, skipped tests, capped threads.

Builders of plates, stores and steps live in `morphseq_dagster.testing`, fixtures of one room beside its tests.
"""

from __future__ import annotations

import os

# Several workers on few cores must not each start a thread per core, nor the processes that tests start. Set
# before anything imports numpy, hence the imports below it.
# ruff: noqa: E402
for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
):
    os.environ.setdefault(_variable, "1")

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.coverage_floors import Covered
    from tests.support.slurm_cluster import LocalCluster

# A shell starts what it puts into the background with Ctrl-C ignored. Dagster makes of TERM whatever Ctrl-C is, and
# children inherit what is ignored: tests that end processes would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"
BESIDE = REPOSITORY.parent / "shared"

# Folders of long tests, begun first, lest one of them is all that is left for one worker.
LONG = {"tests", "browser", "crash", "suspend", "pipeline", "cluster", "pilot"}

# What must not be skipped where real data is at hand and nobody watches.
GUARDED_MARKERS = ("needs_shared", "models", "slurm", "browser")

COVERED: pytest.StashKey[list[Covered]] = pytest.StashKey()

# No deadline: the machines that run this are busy. In CI the same examples every time.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=IN_CI, print_blob=True)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--coverage-floors", action="store_true", help="fail where --cov has measured too little")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.needs_shared)
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --run-slow"))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name not in LONG)


def _skips_are_failures() -> bool:
    return IN_CI and BESIDE.is_dir()


def _fail_instead(report: pytest.TestReport | pytest.CollectReport, why: str) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{why} may not be skipped with CI=true and {BESIDE} present, but was: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    markers = [name for name in GUARDED_MARKERS if item.get_closest_marker(name)]
    slow_unasked = item.get_closest_marker("slow") is not None and not item.config.getoption("--run-slow")
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped and markers and not slow_unasked and not expected_failure and _skips_are_failures():
        _fail_instead(report, f"A test that is marked {', '.join(markers)}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    # A module skipped whole takes tests with it whose markers nobody sees.
    report = yield
    if report.skipped and _skips_are_failures():
        _fail_instead(report, "A whole test module")
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    done = yield  # pytest-cov has joined the figures of all processes by now
    if session.config.getoption("--coverage-floors") and not hasattr(session.config, "workerinput"):
        from tests.support.coverage_floors import read_coverage

        session.config.stash[COVERED] = found = read_coverage()
        session.testsfailed += sum(not covered.is_enough for covered in found)
    return done


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for covered in config.stash.get(COVERED, []):
        terminalreporter.write_line(str(covered), red=not covered.is_enough)


def pytest_sessionfinish() -> None:
    # A worker whose exit takes long is killed, and would leave its clusters behind.
    clusters = sys.modules.get("tests.support.slurm_cluster")
    if clusters is not None:
        clusters.purge_started()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data: MORPHSEQ_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("MORPHSEQ_SHARED", BESIDE))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (MORPHSEQ_SHARED names another folder)")
    return folder


@pytest.fixture(scope="session")
def cluster(shared: Path) -> LocalCluster:
    """A Slurm cluster of this process, which clients find by SLURM_CONF; nobody stops its daemons for good."""
    from tests.support.slurm_cluster import start_cluster

    script = shared / "slurm" / "local-slurm.sh"
    if not script.is_file():
        pytest.skip(f"no Slurm: {script} is not there")
    found = start_cluster(script, cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = found.environment["SLURM_CONF"]
    return found


@pytest.fixture(scope="session")
def finished_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with the small experiment of single pictures, raw to final; nobody writes into it."""
    from tests.support.experiments import (
        FRAMES_EXPERIMENT,
        make_small_frames,
        open_data_root,
        run_experiment,
    )

    data_root = tmp_path_factory.mktemp("finished") / "root"
    make_small_frames(data_root)
    run_experiment(open_data_root(data_root), FRAMES_EXPERIMENT)
    return data_root


@pytest.fixture
def frames_root(finished_frames: Path, tmp_path: Path) -> Path:
    """A copy of the finished experiment, for a test that changes something."""
    return Path(shutil.copytree(finished_frames, tmp_path / "root"))
