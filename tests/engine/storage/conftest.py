"""What the tests of storage share: a small layout and a way to stage and record things in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import Record, describe_output
from morphseq_dagster.engine.storage.staging import FolderStage, Staged, stage_bytes

EXPERIMENT = "20240418"
ARTIFACTS = (
    Artifact("table", "table", "tables/t_{exp}.csv", "A table.", "module:CONTRACT"),
    Artifact(
        "pictures",
        "image_set",
        "pictures/{exp}/m_{exp}.json",
        "Pictures and masks.",
        "morphseq_dagster.engine.tables.image_set:ImageSetManifest",
        folders=("pictures/{exp}", "masks/{exp}"),
    ),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", ARTIFACTS)


@pytest.fixture
def stage_table(layout: Layout) -> Callable[[bytes], Staged]:
    """Stage the table with given bytes."""

    def stage(data: bytes) -> Staged:
        primary = layout.primary("table", experiment=EXPERIMENT)
        units, sha256 = stage_bytes(primary, data=data)
        return Staged(primary=primary, units=units, sha256=sha256, data_version=sha256)

    return stage


@pytest.fixture
def stage_pictures(layout: Layout, tmp_path: Path) -> Callable[[dict[str, bytes]], Staged]:
    """Stage pictures and masks of given names and bytes, with a manifest as the project writes it."""

    def stage(files: dict[str, bytes]) -> Staged:
        from morphseq_dagster.engine.tables.document import encode_document
        from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest

        primary = layout.primary("pictures", experiment=EXPERIMENT)
        folders = layout.folders("pictures", experiment=EXPERIMENT)
        building = FolderStage(layout, folders=folders)
        entries = {}
        for number, (name, data) in enumerate(sorted(files.items())):
            source = tmp_path / f"source{number}"
            source.unlink(missing_ok=True)
            source.write_bytes(data)
            for folder in folders:
                building.add_link(folder / name, source=source)
                entries[layout.relative(folder / name)] = FileEntry(sha256=hash_bytes(data), size=len(data))
        manifest = encode_document(ImageSetManifest(experiment_id=EXPERIMENT, files=dict(sorted(entries.items()))))
        units, sha256 = building.finish(primary, manifest=manifest)
        return Staged(primary=primary, units=units, sha256=sha256, data_version=sha256)

    return stage


@pytest.fixture
def record_of(layout: Layout) -> Callable[[Staged], Record]:
    """Make the record of something staged."""

    def make(staged: Staged, *, key: str = "key") -> Record:
        folders = tuple((u.target, u.temporary) for u in staged.units if u.kind == "folder")
        return Record(
            step="pictures" if folders else "table",
            experiment=EXPERIMENT,
            data_version=staged.data_version,
            output=describe_output(
                layout,
                primary=staged.primary,
                staged_primary=staged.staged_primary,
                sha256=staged.sha256,
                folders=folders[-1:] + folders[:-1],
            ),
            inputs=(),
            step_version=1,
            recipe={},
            recipe_hash="r",
            request_key=key,
            run_id="run",
            place="process",
            host=host_name(),
            pid=1,
            started_at="",
            finished_at="",
            seconds=0.0,
            cpu_seconds=0.0,
        )

    return make


@pytest.fixture
def temporaries(layout: Layout) -> Callable[[], list[str]]:
    """List whatever ends like a temporary anywhere below the data root."""
    return lambda: sorted(layout.relative(path) for path in layout.data_root.rglob("*.tmp"))
