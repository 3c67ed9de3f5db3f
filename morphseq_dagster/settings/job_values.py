"""Values of a job: resources, surroundings and paths, each checked by pattern before anything is written or sent.

The section `places.slurm` is made of them (`slurm.py`), and so is what is asked of the scheduler (`cluster/job.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

from morphseq_dagster.errors import PermanentError

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_RESOURCES: Final = {
    "partition": (rf"{_NAME}(?:,{_NAME})*", "partition names joined by commas"),
    "account": (_NAME, "an account name"),
    "qos": (_NAME, "a name of a quality of service"),
    "memory": (r"[1-9][0-9]{0,8}[KMGT]", "a size such as 8G or 500M"),
    "gpus": (rf"(?:{_NAME}:)?[1-9][0-9]{{0,2}}", "a number such as 1, or type and number such as a100:1"),
    "time": (
        r"[1-9][0-9]{0,5}|[0-9]{1,4}:[0-9]{2}:[0-9]{2}|[0-9]{1,3}-[0-9]{1,2}(?::[0-9]{2}){0,2}",
        "minutes, HH:MM:SS or D-HH:MM:SS",
    ),
    "constraint": (r"[A-Za-z0-9_(\[][A-Za-z0-9_.,&|*()\[\]-]*", "features joined by & or |"),
    "exclude": (r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "node names such as n[1-3],n7"),
}
_PATH: Final = re.compile(r"/[A-Za-z0-9._/+-]*")
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*", re.IGNORECASE)
_VALUE: Final = re.compile(r"[A-Za-z0-9._/+:=,@%~ -]*")
_MEMORY_UNITS: Final = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
MAX_CPUS: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job needs of a node; None leaves the choice to the cluster.

    Parameters
    ----------
    partition, account, qos
        Where and on whose account.
    cpus
        Processors.
    memory
        Memory of the node for this job: a whole number with K, M, G or T.
    gpus
        Number, or type and number (`a100:1`).
    time
        Limit: minutes, `HH:MM:SS` or `D-HH:MM:SS`.
    constraint, exclude
        Features that the node must have, nodes that must not be used.

    Raises
    ------
    PermanentError
        Naming every value that does not fit its pattern.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cpus: int = 1
    memory: str | None = None
    gpus: str | None = None
    time: str | None = None
    constraint: str | None = None
    exclude: str | None = None

    def __post_init__(self) -> None:
        """Refuse every value that does not fit."""
        wrong = [
            f"{name} = {value!r} is not {meaning}"
            for name, (pattern, meaning) in _RESOURCES.items()
            if (value := getattr(self, name)) is not None
            and not (isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII))
        ]
        if type(self.cpus) is not int or not 1 <= self.cpus <= MAX_CPUS:
            wrong.append(f"cpus = {self.cpus!r} is not a whole number from 1 to {MAX_CPUS}")
        refuse(wrong, where="resources of a job")

    @property
    def memory_mb(self) -> float | None:
        """Memory in MiB."""
        return None if self.memory is None else int(self.memory[:-1]) * _MEMORY_UNITS[self.memory[-1]]

    @property
    def time_s(self) -> int | None:
        """Time limit in seconds."""
        if self.time is None:
            return None
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if not days and len(parts) == 1:
            return parts[0] * 60
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds

    def with_memory_doubled(self) -> Resources:
        """The same with twice the memory."""
        if self.memory is None:
            return self
        return replace(self, memory=f"{2 * int(self.memory[:-1])}{self.memory[-1]}")

    def without_nodes(self, nodes: tuple[str, ...]) -> Resources:
        """The same, keeping off some more nodes."""
        named = [*(self.exclude.split(",") if self.exclude else ()), *nodes]
        return replace(self, exclude=",".join(dict.fromkeys(named)) or None)

    def as_dict(self) -> dict[str, str | int]:
        """Return what is set, for job files and people."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What surrounds the command on the node; the submitter's own environment never reaches it.

    Parameters
    ----------
    preamble
        Path of a shell file that the script reads first (modules of the site).
    variables
        Variables set for the command.
    """

    preamble: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names, values and paths that do not fit."""
        wrong = [f"variable {name!r}" for name in self.variables if not _VARIABLE.fullmatch(name)]
        wrong += [
            f"{name} = {value!r} has other characters than letters, digits and ._/+:=,@%~- and blank"
            for name, value in self.variables.items()
            if not _VALUE.fullmatch(value)
        ]
        if self.preamble is not None and not _PATH.fullmatch(self.preamble):
            wrong.append(f"preamble {self.preamble!r} is not a plain absolute path")
        refuse(wrong, where="environment of a job")


def is_plain_name(part: str) -> bool:
    """Whether a name may become one part of a path."""
    return len(part) <= 200 and _PART.fullmatch(part) is not None


def check_path(path: str) -> str:
    """Return an absolute path that needs no quoting anywhere.

    Raises
    ------
    PermanentError
        For a path with a blank, a quote or any other character than letters, digits and `._/+-`.
    """
    if not _PATH.fullmatch(path):
        raise PermanentError(
            expected="an absolute path of letters, digits and ._/+- only",
            found=repr(path),
            where="path that a job script has to name",
            remedy="give the data root, the environment or the preamble a plain path",
        )
    return path


def refuse(wrong: list[str], *, where: str) -> None:
    """Raise an error that names everything wrong; nothing when nothing is."""
    if wrong:
        raise PermanentError(
            expected="plain values as docs/slurm.md lists them",
            found="; ".join(wrong),
            where=where,
            remedy="correct the named settings; nothing was sent to the cluster",
        )
