"""Installed packages, looked at in two ways.

The short look names everything that is installed without opening it; the long one follows the requirements of each
package from ours on. Two machines with equal short looks and equal code need no long one, whose libraries are loaded
only when it is called.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from morphseq_dagster.engine.storage.hashing import hash_json

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_DISTRIBUTION: Final = "morphseq-dagster"
_OWN: Final = re.compile(r"morphseq_dagster(?:-[^-]+)?\.(?:dist|egg)-info")
_INFO: Final = ".dist-info"
_OLD_INFO: Final = (".egg-info", ".egg", ".egg-link")
_NEEDS: Final = ("Requires-Dist:", "Provides-Extra:")


def glance(paths: Sequence[str] | None = None) -> str:
    """Hash of what the long look depends on: interpreter, processor, versions of all distributions, our own needs.

    Parameters
    ----------
    paths
        Folders that modules are imported from, in order; this process's own unless given.

    Returns
    -------
    str
        Empty where it is not known without the long look, and then equal to nothing.
    """
    names: list[str] = []
    needs: list[str] | None = None
    for path in dict.fromkeys(sys.path if paths is None else paths):
        try:
            found = sorted(entry.name for entry in os.scandir(path or "."))
        except OSError:
            continue  # a zip file, or nothing: no distributions that importing would find here
        for name in found:
            if _OWN.fullmatch(name):
                needs = _read_needs(Path(path) / name) if needs is None else needs
            elif name.endswith(_OLD_INFO):
                return ""  # their versions stand inside
            elif name.endswith(_INFO):
                names.append(name)
    if not needs:
        return ""
    return hash_json([sys.version, platform.machine(), names, needs])


def needed_versions(extra: str = "") -> dict[str, str]:
    """Version by name of what our package needs, directly or through others, as far as it is installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    todo, seen = [(_DISTRIBUTION, frozenset({extra}))], set()
    versions: dict[str, str] = {}
    while todo:
        name, extras = todo.pop()
        found = None if (name, extras) in seen else _find(name)
        seen.add((name, extras))
        if found is None:
            continue
        versions[name] = found.version
        for text in found.requires or ():
            requirement = Requirement(text)
            wanted = canonicalize_name(requirement.name)
            marker = requirement.marker
            applies = marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras))
            if applies and not wanted.startswith(("dagster", _DISTRIBUTION)):
                todo.append((wanted, frozenset(requirement.extras)))
    return {name: version for name, version in versions.items() if name != _DISTRIBUTION}


def installed_version(name: str) -> str | None:
    """Version of an installed package; None when there is none."""
    found = _find(name)
    return None if found is None else found.version


def are_equal_versions(one: str, *, other: str) -> bool:
    """Whether two versions are the same in public: a build for GPUs counts as the one without."""
    return one == other or _public(one) == _public(other)


@cache
def _find(name: str) -> Distribution | None:
    from importlib import metadata

    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version).public
    except InvalidVersion:
        return version


def _read_needs(info: Path) -> list[str]:
    """Requirements of our own package, whose version does not show them; none where they cannot be read."""
    path = info / ("METADATA" if info.suffix == _INFO else "PKG-INFO")
    try:
        head, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    except (OSError, UnicodeDecodeError):
        return []
    return sorted(line for line in head.splitlines() if line.startswith(_NEEDS))
