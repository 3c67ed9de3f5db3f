"""Looking at what is installed: the short look changes with whatever the long one could find, and with nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from morphseq_dagster.engine.executors.environment import EnvironmentDescription, describe_environment, read_stored
from morphseq_dagster.engine.executors.installed import are_equal_versions, glance, needed_versions
from morphseq_dagster.engine.layout import Layout

OWN = "morphseq_dagster-0.1.0.dist-info"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Folder with our package, which needs one other, and with two others."""
    folder = tmp_path / "site-packages"
    for name in (OWN, "numpy-2.4.6.dist-info", "rich-14.0.dist-info"):
        (folder / name).mkdir(parents=True)
    (folder / OWN / "METADATA").write_text(
        "Name: morphseq-dagster\nRequires-Dist: numpy\n\nRequires-Dist: of the text\n"
    )
    (folder / "numpy").mkdir()
    return folder


def look(*folders: Path) -> str:
    return glance([str(folder) for folder in folders])


def test_same_distributions_look_the_same_wherever_they_lie(site: Path, tmp_path: Path) -> None:
    seen = look(site)
    assert len(seen) == 64
    other = shutil.copytree(site, tmp_path / "other")
    assert look(other) == look(tmp_path / "nowhere", other, other) == seen
    (site / "numpy" / "__pycache__").mkdir()
    (site / OWN / "RECORD").touch()
    (site / OWN / "METADATA").write_text("Name: morphseq-dagster\nRequires-Dist: numpy\n\nAnother text\n")
    assert look(site) == seen, "nothing of this says what is installed or needed"


@pytest.mark.parametrize("change", ["added", "removed", "version", "needs", "shadowed"])
def test_whatever_may_change_the_long_look_changes_the_short_one(site: Path, tmp_path: Path, change: str) -> None:
    before, before_it = look(site), tmp_path / "before"
    before_it.mkdir()
    match change:
        case "added":
            (site / "torch-2.13.0.dist-info").mkdir()
        case "removed":
            (site / "rich-14.0.dist-info").rmdir()
        case "version":
            (site / "numpy-2.4.6.dist-info").rename(site / "numpy-2.4.7.dist-info")
        case "needs":
            (site / OWN / "METADATA").write_text("Requires-Dist: numpy>=2\n\n")
        case "shadowed":
            (before_it / "numpy-1.0.dist-info").mkdir()
    assert look(before_it, site) not in ("", before)


def test_our_own_checkout_in_front_tells_the_needs(site: Path, tmp_path: Path) -> None:
    seen, info = look(site), tmp_path / "checkout" / "morphseq_dagster.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Requires-Dist: numpy\n\n")
    assert look(info.parent, site) == seen
    (info / "PKG-INFO").write_text("Requires-Dist: numpy\nRequires-Dist: ijson\n\n")
    assert look(info.parent, site) not in ("", seen)


def test_what_cannot_be_told_by_names_is_told_to_be_unknown(site: Path, tmp_path: Path) -> None:
    assert look(tmp_path) == "", "our package is not there"
    (site / OWN / "METADATA").unlink()
    assert look(site) == "", "its needs cannot be read"
    (site / OWN / "METADATA").write_text("Requires-Dist: numpy\n\n")
    (site / "six.egg-info").mkdir()
    assert look(site) == "", "a version that stands in a file"


def test_needs_of_needs_are_followed_and_builds_of_a_version_are_equal() -> None:
    versions = needed_versions()
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["python-dateutil"] == metadata.version("python-dateutil"), "pandas needs it"
    assert are_equal_versions("2.13.0+cpu", other="2.13.0")
    assert not are_equal_versions("2.13.0", other="2.13.1")
    assert are_equal_versions("no version", other="no version")


KNOWS = """
import sys
from pathlib import Path
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.executors.environment import describe_environment, refuse_difference, store_description
if len(sys.argv) == 2:
    print(store_description(Layout(Path(sys.argv[1]))))
else:
    refuse_difference(Path(sys.argv[2]))
    print(describe_environment().hash, "packaging.requirements" in sys.modules)
"""


def run(*arguments: str) -> str:
    command = [sys.executable, "-P", "-c", KNOWS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_job_knows_at_a_glance_what_was_described_and_looks_closely_at_all_else(tmp_path: Path) -> None:
    path = Path(run(str(tmp_path)))
    assert run(str(tmp_path), str(path)) == f"{path.stem} False"
    known = read_stored(Layout(tmp_path), digest=path.stem)
    assert known.hash == path.stem
    elsewhere = known.model_copy(update={"glance": "0" * 64})
    assert elsewhere.hash == known.hash, "what lies beside the described is not described"
    for unsure in (elsewhere, known.model_copy(update={"glance": ""})):
        path.write_text(unsure.model_dump_json())
        assert run(str(tmp_path), str(path)) == f"{path.stem} True"


def test_a_guess_counts_only_before_the_environment_is_known() -> None:
    here = describe_environment()
    guess = EnvironmentDescription(python="2.7", packages={}, models={}, code=here.code, glance=here.glance)
    assert describe_environment(guess) == here
