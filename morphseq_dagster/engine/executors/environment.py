"""Environment: which Python, packages and code compute here, and whether they are those that a request expects.

A description names what can change a result: packages that the project needs, with theirs (`installed.py`), and the
code that a job runs. Dagster with what only it needs, tools of development, and the code around Dagster and the command
line may differ, since no job imports them.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import morphseq_dagster
from morphseq_dagster.engine.executors.installed import are_equal_versions, glance, installed_version, needed_versions
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import host_name, write_durably
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_bytes, hash_json
from morphseq_dagster.errors import PermanentError

Policy = Literal["same", "recorded", "any"]

_MODELS: Final = "models"
# Rooms that no job imports.
_NOT_IN_JOBS: Final = frozenset(
    {
        "assets",
        "build.py",
        "cli",
        "definitions.py",
        "demo",
        "io_managers",
        "jobs",
        "launchers",
        "partitions.py",
        "resources",
        "sensors",
        "templates",
        "testing",
    }
)
_CODE: Final = frozenset({".py", ".toml", ".yaml", ".csv"})
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_KNOWN: Final[list[EnvironmentDescription]] = []  # this process's, once it is known


class EnvironmentDescription(BaseModel):
    """What computes.

    Parameters
    ----------
    python
        Version of Python.
    packages
        Version by name of what every step needs, sorted.
    models
        The same of what neural backends need beside that, as far as it is installed.
    code
        Hash of the package's own files.
    glance
        Hash of all that is installed where this was described (`installed.glance`), wanted or not. No part of what is
        described: where it is the same, and the code is, the rest need not be looked at again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    python: str
    packages: dict[str, str]
    models: dict[str, str]
    code: str
    glance: str = ""

    @property
    def hash(self) -> str:
        """Name of this description: the hash of all it describes."""
        return hash_json(self.model_dump(exclude={"glance"}))


class RecordedEnvironment(BaseModel):
    """Which environment is the cluster's: hash of its description, host and time of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str
    host: str
    recorded_at: str


def describe_environment(guess: EnvironmentDescription | None = None) -> EnvironmentDescription:
    """Describe this process's environment; once per process, as what is loaded does not change either.

    Parameters
    ----------
    guess
        What it may be. A job starts in a third of the time that knows it at a glance.
    """
    if not _KNOWN:
        seen, code = glance(), hash_code(Path(morphseq_dagster.__file__).parent)
        if guess is not None and seen and (guess.glance, guess.code) == (seen, code):
            _KNOWN.append(guess)
        else:
            core, models = needed_versions(), needed_versions(_MODELS)
            found = EnvironmentDescription(
                python=platform.python_version(),
                packages=dict(sorted(core.items())),
                models={name: version for name, version in sorted(models.items()) if name not in core},
                code=code,
                glance=seen,
            )
            _KNOWN.append(found)
    return _KNOWN[0]


def hash_code(package: Path) -> str:
    """Hash names and bytes of the files of a package that a job may run or read."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if relative.parts[0] in _NOT_IN_JOBS or path.suffix not in _CODE or not path.is_file():
            continue
        digest.update(f"{relative.as_posix()}\0{hash_bytes(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def compare_environments(
    expected: EnvironmentDescription,
    *,
    found: EnvironmentDescription,
    look: Callable[[str], str | None] = lambda _: None,
) -> list[str]:
    """Name every difference that matters; none when jobs may run.

    Python counts by its minor version, packages by their public version (a build for GPUs counts as the one without),
    and packages of neural backends where both sides have them. What is there beside them does not count.

    Parameters
    ----------
    expected, found
        What is wanted and what there is.
    look
        Version of an installed package that `found` does not list: which ones are needed is known from the metadata of
        our own distribution, and an older installation's names fewer than the code needs.
    """
    differences = []
    if _minor(expected.python) != _minor(found.python):
        differences.append(f"Python {expected.python} expected, {found.python} found")
    there = {**found.models, **found.packages}
    for name, version in expected.packages.items():
        differences += _compare(name, version, there.get(name) or look(name))
    for name, version in expected.models.items():
        other = there.get(name) or look(name)
        differences += _compare(name, version, other) if other is not None else []
    if expected.code != found.code:
        differences.append(f"code {expected.code[:12]} of morphseq_dagster expected, {found.code[:12]} found")
    return differences


def refuse_difference(path: Path) -> None:
    """Refuse to work in another environment than a file describes.

    Raises
    ------
    PermanentError
        Naming every difference, or that the description cannot be read.
    """
    expected = _read_description(path)
    found = describe_environment(expected)
    differences = compare_environments(expected, found=found, look=installed_version)
    if differences:
        raise PermanentError(
            expected=f"the environment {path.stem[:12]}",
            found="; ".join(differences),
            where=f"environment of {host_name()}",
            remedy="`make install` of the same release on the cluster and where you work, then `morphseq environment "
            "--record` there; places.slurm.environment says what is compared",
        )


def expected_file(policy: Policy, *, layout: Layout) -> str | None:
    """Name, in the folder of environments, of the description that jobs must meet; None when any will do.

    Raises
    ------
    PermanentError
        When the cluster's own is wanted and was never recorded.
    """
    if policy == "any":
        return None
    if policy == "same":
        return f"{describe_environment().hash}.json"
    recorded = read_recorded(layout)
    if recorded is None:
        raise PermanentError(
            expected="the cluster's environment on record",
            found="none",
            where=str(_pointer(layout)),
            remedy="`morphseq environment --record` on the cluster, in the environment that jobs use",
        )
    return f"{recorded.hash}.json"


def store_description(layout: Layout, *, description: EnvironmentDescription | None = None) -> Path:
    """Store a description, this process's own unless given, under its hash; the last glance counts."""
    description = description or describe_environment()
    path = layout.environments / f"{description.hash}.json"
    data = canonical_json(description.model_dump())
    if not path.is_file() or path.read_bytes() != data:
        write_durably(path, data)
    return path


def record_environment(layout: Layout) -> RecordedEnvironment:
    """Record this process's environment as the cluster's."""
    store_description(layout)
    recorded = RecordedEnvironment(
        hash=describe_environment().hash, host=host_name(), recorded_at=datetime.now(UTC).isoformat(timespec="seconds")
    )
    write_durably(_pointer(layout), canonical_json(recorded.model_dump()))
    return recorded


def read_recorded(layout: Layout) -> RecordedEnvironment | None:
    """Read which environment is the cluster's; None when nobody recorded one.

    Raises
    ------
    PermanentError
        When the record is damaged.
    """
    try:
        recorded = RecordedEnvironment.model_validate_json(_pointer(layout).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _damaged(_pointer(layout)) from error
    if not _HASH.fullmatch(recorded.hash):
        raise _damaged(_pointer(layout))
    return recorded


def read_stored(layout: Layout, *, digest: str) -> EnvironmentDescription:
    """Read a description by its hash.

    Raises
    ------
    PermanentError
        When it is not there, or not what its name says.
    """
    return _read_description(layout.environments / f"{digest}.json")


def _read_description(path: Path) -> EnvironmentDescription:
    try:
        description = EnvironmentDescription.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise _damaged(path) from error
    if description.hash != path.stem:
        raise _damaged(path)
    return description


def _damaged(path: Path) -> PermanentError:
    return PermanentError(
        expected="the description of an environment under its hash",
        found="no such file, or another content",
        where=str(path),
        remedy="`morphseq environment --record` on the cluster writes it anew",
    )


def _pointer(layout: Layout) -> Path:
    return layout.environments / "cluster.json"


def _compare(name: str, expected: str, found: str | None) -> list[str]:
    if found is not None and are_equal_versions(expected, other=found):
        return []
    return [f"{name} {expected} expected, {found or 'none'} found"]


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])
