"""Checks of `morphseq doctor`: data root, unfinished work, Dagster home, installation.

They only look, without Dagster; each finding names the command that mends it. The cluster is checked in
`cluster_checks.py`, weights in `weights.py`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.engine.storage.step_locks import holder_is_dead, read_lock
from morphseq_dagster.engine.storage.sweep import find_orphans
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError

Level = Literal["ok", "note", "problem"]
FIX: Final = "morphseq doctor --fix"
FEW_BYTES: Final = 10 * 2**30
"""Free space below which a plate of time-lapse pictures may not fit."""
SKEW_S: Final = 5.0
"""Seconds between the disk's clock and this host's from which waiting times and scans go wrong."""
MUCH_HISTORY: Final = 2 * 2**30
"""Bytes of history in SQLite that are worth a look; nothing is lost by keeping it."""
_FAMILY: Final = ("dagster", "dagster-webserver", "dagster-graphql", "dagster-pipes", "dagster-shared")
_NETWORK: Final = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "fuse.sshfs", "9p", "glusterfs")


@dataclass(frozen=True)
class CheckResult:
    """One thing looked at.

    Parameters
    ----------
    level
        `ok`, `note` (worth knowing) or `problem`.
    text
        What was found.
    command
        What to type or do about it; empty when nothing need be done.
    fixable
        Whether `--fix` mends it safely.
    """

    level: Level
    text: str
    command: str = ""
    fixable: bool = False


ok = partial(CheckResult, "ok")
note = partial(CheckResult, "note")
problem = partial(CheckResult, "problem")


def check_machine(workspace: Workspace, *, home: Path | None) -> Iterator[CheckResult]:
    """Look at everything that needs no Dagster."""
    yield from check_data_root(workspace.data_root)
    yield from check_work(workspace)
    yield from check_recipes(workspace)
    yield from check_home(home)
    yield from check_installation()


def check_data_root(root: Path) -> Iterator[CheckResult]:
    """Whether the data root is there, can be written and has space."""
    if not root.is_dir():
        yield problem(f"data root {root} is not there", f"mkdir -p {root}, or correct MORPHSEQ_DATA_ROOT")
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield problem(f"data root {root} cannot be written", f"chmod u+rwx {root}, or mount it writable")
        return
    free = shutil.disk_usage(root).free
    text = f"data root {root} can be written, {free / 2**30:.0f} GiB free"
    few = free < FEW_BYTES
    yield CheckResult("problem" if few else "ok", text, f"df -h {root}; make room" if few else "")
    yield from check_clock(root)


def check_clock(root: Path, *, now: Callable[[], float] = time.time) -> Iterator[CheckResult]:
    """Whether the disk of the data root and this host agree on the time: claims, scans and waiting times rest on it."""
    try:
        with tempfile.TemporaryFile(dir=root) as probe:
            before = now()
            probe.write(b".")
            probe.flush()
            stamp = os.fstat(probe.fileno()).st_mtime
    except OSError as error:
        yield problem(f"the clock of the disk cannot be asked: {error}", f"see to the disk of {root}")
        return
    skew = stamp - before
    if abs(skew) > SKEW_S:
        text = f"the disk of {root} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host"
        yield problem(text, "set the clock of this host or of the file server (NTP)")


def check_work(workspace: Workspace) -> Iterator[CheckResult]:
    """Interrupted publications, claims without a living holder, temporaries that nobody will use."""
    layout, clean = workspace.layout, True
    for path in _json_files(layout.private / "claims"):
        try:
            claim = read_lock(path)
        except MorphseqError as error:
            clean = False
            yield problem(f"{error.where}: {error.found}", error.remedy)
            continue
        if claim is None:
            continue
        if holder_is_dead(claim):
            clean = False
            yield problem(f"{path.stem} is claimed by {claim.holder()}, which is gone", FIX, fixable=True)
        else:
            yield note(f"{path.stem} is at work: {claim.holder()}", f"wait; if that host is gone: rm {path}")
    for path in _json_files(layout.private / "pending"):
        experiment, _, step = path.stem.rpartition(".")
        if not layout.lock(step, experiment=experiment).exists():
            clean = False
            yield problem(f"the publication of {path.stem} was cut off", FIX, fixable=True)
    orphans = list(find_orphans(layout)) if layout.data_root.is_dir() else []
    if orphans:
        clean = False
        text = f"{len(orphans)} temporaries of dead processes, the first: {layout.relative(orphans[0])}"
        yield problem(text, FIX, fixable=True)
    if clean:
        yield ok("no interrupted work")


def check_recipes(workspace: Workspace) -> Iterator[CheckResult]:
    """Whether every recipe file can be resolved."""
    folder = workspace.layout.recipes("default")[0].parent
    files = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    clean = True
    for path in files:
        try:
            workspace.recipe(path.stem)
        except (MorphseqError, OSError) as error:
            clean = False
            yield problem(str(error), f"correct {path}")
    if clean:
        yield ok(f"{len(files)} recipe files can be read")


def check_home(home: Path | None) -> Iterator[CheckResult]:
    """Whether the Dagster home is named, configured and on a local disk."""
    if home is None:
        yield note("DAGSTER_HOME is not set: runs leave no history", "make install, or export DAGSTER_HOME=...")
        return
    kind = find_file_system(home)
    if kind.startswith(_NETWORK):
        text = f"Dagster home {home} lies on a network disk ({kind}), which SQLite does not bear"
        yield problem(text, "export DAGSTER_HOME=/a/folder/on/a/local/disk")
    elif not os.access(home, os.W_OK | os.X_OK):
        yield problem(f"Dagster home {home} cannot be written", f"chmod u+rwx {home}")
    elif not (home / "dagster.yaml").is_file():
        yield problem(f"Dagster home {home} has no dagster.yaml: telemetry is on, no pool is limited", "make install")
    else:
        yield ok(f"Dagster home {home} ({kind or 'file system unknown'})")
        yield from check_history(home)


def check_history(home: Path) -> Iterator[CheckResult]:
    """Whether Dagster's history has grown so large that pages and sensors become slow."""
    size = sum(path.stat().st_size for path in home.rglob("*.db*") if path.is_file())
    if size > MUCH_HISTORY:
        text = f"Dagster's history in {home} takes {size / 2**30:.1f} GiB"
        advice = "delete old runs on the web page; or empty the home and run `morphseq reconcile --report-to-dagster`"
        yield note(text, advice)


def find_file_system(path: Path, *, mounts: Path = Path("/proc/mounts")) -> str:
    """Kind of the file system that a path lies on, by the longest mount point; empty where it is not known."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    # The kernel writes blanks of a mount point as octal escapes.
    points = [(Path(fields[1].replace("\\040", " ")), fields[2]) for fields in lines if len(fields) > 2]
    target = path.resolve()
    within = [(len(point.parts), kind) for point, kind in points if target.is_relative_to(point)]
    return max(within, key=lambda pair: pair[0])[1] if within else ""


def check_installation() -> Iterator[CheckResult]:
    """Whether Dagster's packages are of one version, and the image library can be loaded."""
    versions = {name: _version(name) for name in _FAMILY}
    if len(set(versions.values())) == 1 and None not in versions.values():
        yield ok(f"Dagster {versions['dagster']}, all packages alike")
    else:
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        yield problem(f"Dagster's packages differ: {found}", "pip install -e . -c constraints.txt")
    try:
        library = importlib.import_module("cv2")
    except ImportError as error:
        yield problem(f"OpenCV cannot be loaded: {error}", "make install (it names the system packages)")
    else:
        yield ok(f"OpenCV {library.__version__}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else []
