"""A data root that cannot be written and a disk that fills up: said with the remedy, and nothing good is lost.

The command runs in a child that has lost the privilege to write where permissions forbid it, has a limit on the size
of a file, or sees a small disk in place of the data root.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    REGISTRY_NAME,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
)

COMMAND = [sys.executable, "-m", "morphseq_dagster.testing.chain"]
_DROP_FROM_BOUNDING_SET, _OVERRIDE_PERMISSIONS = 24, 1


def obey_permissions() -> None:
    """Give up root's right to write where permissions forbid it; nothing to do for other users."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, _OVERRIDE_PERMISSIONS, 0, 0, 0) != 0:
        os._exit(99)


def run_chain(
    data_root: Path, *options: str, prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(data_root), FRAMES_EXPERIMENT, "--pipeline", REGISTRY_NAME, *options],
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        check=False,
    )


def forbid_writing(data_root: Path) -> list[Path]:
    folders = [data_root, *(path for path in data_root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    return folders


def test_read_only_data_root_is_said_and_nothing_is_lost(frames_root: Path) -> None:
    workspace = open_data_root(frames_root)
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    folders = forbid_writing(frames_root)
    try:
        done = run_chain(frames_root, "--force", prepare=obey_permissions)
        if done.returncode == 99:
            pytest.skip("this machine does not let root give up its right to write everywhere")
        assert done.returncode == 1, done.stderr
        assert "Permission denied" in done.stderr
        assert str(frames_root) in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()


def test_read_only_raw_folder_is_no_obstacle(tmp_path: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    folders = forbid_writing(data_root / "raw_image_data")
    try:
        done = run_chain(data_root, prepare=obey_permissions)
        if done.returncode == 99:
            pytest.skip("this machine does not let root give up its right to write everywhere")
        assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)


def limit_files() -> None:
    # Snips with their manifest go beyond it, the earlier steps do not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_write_that_the_system_refuses_is_said_and_the_next_run_completes(
    tmp_path: Path, finished_frames: Path
) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    done = run_chain(data_root, prepare=limit_files)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(data_root.rglob("*.tmp")) == []
    workspace = open_data_root(data_root)
    run_experiment(workspace, FRAMES_EXPERIMENT)
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == first


SMALL_DISK = """
set -e
mount -t tmpfs -o size={size}k tmpfs "$1" || exit 98
cp -a "$2/." "$1/"
"$3" -m morphseq_dagster.testing.chain "$1" {experiment} --pipeline {pipeline} && exit 97 || true
find "$1" -name '*.tmp' | grep . && exit 96 || true
mount -o remount,size=64m "$1"
"$3" -m morphseq_dagster.testing.chain "$1" {experiment} --pipeline {pipeline} || exit 95
cp -a "$1/." "$4/"
"""


@pytest.mark.parametrize("spare_kb", [60, 500])
def test_disk_that_fills_up_is_said_and_with_more_room_the_run_completes(
    tmp_path: Path, finished_frames: Path, spare_kb: int
) -> None:
    source, mount, result = (tmp_path / name for name in ("source", "mount", "result"))
    make_small_frames(source)
    mount.mkdir()
    result.mkdir()
    used = sum(path.stat().st_size + 4096 for path in source.rglob("*")) // 1024
    script = SMALL_DISK.format(size=used + spare_kb, experiment=FRAMES_EXPERIMENT, pipeline=REGISTRY_NAME)
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", str(mount), str(source), sys.executable, str(result)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr.lower() or done.returncode == 98:
        pytest.skip(f"this machine does not allow a disk of one's own: {done.stderr.strip()}")
    assert done.returncode == 0, f"{done.returncode}: {done.stderr} {done.stdout}"
    assert "No space left on device" in done.stderr
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(open_data_root(result), FRAMES_EXPERIMENT) == first
