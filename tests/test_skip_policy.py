"""Where the real data lies beside the repository, CI takes a skipped test of it for a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SUITE = """
import pytest


def test_plain_skip():
    pytest.skip("not today")


def test_of_real_data(shared):
    assert shared.is_dir()


@pytest.mark.browser
def test_in_browser():
    pytest.skip("no browser")


@pytest.mark.slurm
@pytest.mark.skip(reason="no scheduler")
def test_on_cluster():
    pass


@pytest.mark.slow
@pytest.mark.models
def test_for_minutes():
    pass


@pytest.mark.models
@pytest.mark.xfail
def test_known_to_fail():
    raise AssertionError
"""


def outcomes(folder: Path, *options: str, **environment: str) -> dict[str, int]:
    """Run the little suite as of a repository below `folder`; count its tests by outcome."""
    tests = folder / "repository" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(CONFTEST, tests)
    (tests / "test_suite.py").write_text(SUITE)
    (tests / "test_module.py").write_text("import pytest\n\npytest.importorskip('surely_not_there')\n")
    shutil.copy(CONFTEST.parent.parent / "pyproject.toml", tests.parent)
    clean = {name: value for name, value in os.environ.items() if name not in {"CI", "MORPHSEQ_SHARED"}}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", *options],
        cwd=tests.parent,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    words = last.strip("= ").split(" in ")[0].split(", ")
    return {word.split()[1].removesuffix("s"): int(word.split()[0]) for word in words if word[0].isdigit()}


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path


def test_without_real_data_everything_may_be_skipped(tmp_path: Path) -> None:
    # 4 tests that skip themselves, the slow one and one whole module.
    assert outcomes(tmp_path, CI="true") == {"skipped": 6, "xfailed": 1}


def test_outside_ci_skips_stay_skips(beside: Path) -> None:
    assert outcomes(beside) == {"passed": 1, "skipped": 5, "xfailed": 1}


def test_in_ci_guarded_skips_fail_and_others_do_not(beside: Path) -> None:
    # pytest calls a failure before the test's body, here of the scheduler's mark and of the whole module, an error.
    # The plain and the slow test may be skipped.
    assert outcomes(beside, CI="true") == {"failed": 1, "error": 2, "passed": 1, "skipped": 2, "xfailed": 1}


def test_in_ci_a_wrong_folder_of_real_data_fails(beside: Path) -> None:
    counts = outcomes(beside, CI="true", MORPHSEQ_SHARED=str(beside / "nowhere"))

    assert counts == {"failed": 1, "error": 3, "skipped": 2, "xfailed": 1}


def test_run_slow_runs_what_is_marked_slow(tmp_path: Path) -> None:
    assert outcomes(tmp_path, "--run-slow")["passed"] == 1
