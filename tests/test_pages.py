from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from morphseq_dagster.backends import BackendSlice
from morphseq_dagster.engine.contract.recipe import load_recipe
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT as STAGED
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

ARTIFACTS = {artifact.name: artifact for artifact in MORPHSEQ.artifacts}
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GENERATORS = {"outputs.md": "scripts/write_outputs_page.py", "recipes.md": "scripts/write_recipes_page.py"}
ARTIFACTS = {artifact.name: artifact for artifact in MORPHSEQ.artifacts}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", GENERATORS)
def test_committed_page_is_what_its_script_writes(page: str, tmp_path: Path) -> None:
    done = run(GENERATORS[page], "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    written = (tmp_path / page).read_text(encoding="utf-8")
    assert (DOCS / page).read_text(encoding="utf-8") == written, f"run: python {GENERATORS[page]}"


@pytest.mark.parametrize("page", GENERATORS)
def test_check_finds_a_page_that_was_changed_by_hand(page: str, tmp_path: Path) -> None:
    (tmp_path / page).write_text((DOCS / page).read_text(encoding="utf-8") + "one more line\n", encoding="utf-8")
    done = run(GENERATORS[page], "--check", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert GENERATORS[page] in done.stderr


def test_committed_graph_is_what_the_pipeline_says(tmp_path: Path) -> None:
    done = run("scripts/make_pictures.py", "--graph-only", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (DOCS / "pictures" / "asset_graph.svg").read_bytes() == (tmp_path / "asset_graph.svg").read_bytes()


def test_graph_shows_every_step_and_no_step_behind_another() -> None:
    text = (DOCS / "pictures" / "asset_graph.svg").read_text(encoding="utf-8")
    corners = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="148"', text)
    assert len(corners) == len(set(corners)) == len(ARTIFACTS)
    for name in ARTIFACTS:
        assert f">{name}</text>" in text


def test_outputs_page_names_every_file_and_every_column_of_the_staged_table() -> None:
    text = (DOCS / "outputs.md").read_text(encoding="utf-8")
    for artifact in ARTIFACTS.values():
        assert artifact.primary.replace("{variant}", "{model}") in text
    for column in STAGED.names:
        assert f"| `{column}` |" in text


def test_recipes_page_names_every_parameter_of_every_step() -> None:
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for spec in MORPHSEQ.steps:
        chosen = [{"backend": b.name} for b in spec.recipe.backends] if issubclass(spec.recipe, BackendSlice) else [{}]
        for values in chosen:
            for name in leaves(spec.recipe.model_validate(values)):
                assert f"| `{name}` |" in sections[spec.name]


def leaves(model: BaseModel, prefix: str = "") -> list[str]:
    found = []
    for name, value in model:
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [prefix + name]
    return found


def test_recipe_shown_in_the_documentation_is_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (DOCS / "recipes.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "default.toml"
    path.write_text(example, encoding="utf-8")
    recipe = load_recipe((path,), sections={spec.name: spec.recipe for spec in MORPHSEQ.steps})
    assert recipe.slice("gdino_detections")["confidence_threshold"] == 0.5
    assert recipe.slice("snips")["snip"]["taper_um"] == 20.0
    assert set(recipe.slice("gdino_raw")) == {"max_failed_share", "backend", "classical"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.is_file(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {title.lower().replace(" ", "-") for title in titles}, f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["asset_graph.svg", "detected_plate.png", "snips.png"])
def test_pictures_stay_small(name: str) -> None:
    assert 1_000 < (DOCS / "pictures" / name).stat().st_size < 300_000


def test_readme_names_places_that_the_layout_knows() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {a.primary.replace("{variant}", "dct_100") for a in ARTIFACTS.values()}
    known |= {folder + "/" for a in ARTIFACTS.values() for folder in a.folders}
    known |= {f"{ARTIFACTS['exported_masks'].folders[0]}/masks/"}
    table = re.findall(r"^\| (?!raw files|plate workbook|record)[^|]+ \| (.+) \|$", text, re.MULTILINE)
    paths = [path for cell in table for path in re.findall(r"`([^`]+)`", cell)]
    assert len(paths) >= 10
    assert set(paths) <= known
