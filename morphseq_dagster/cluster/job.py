"""Jobs: what the scheduler is asked to run.

The values that a job is made of are in `settings/job_values.py`, its script is written by `script.py`, and its files
lie in the folder of an attempt (`attempt_folder.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from morphseq_dagster.settings.job_values import Environment, Resources, is_plain_name, refuse

_KEY: Final = re.compile(r"[0-9a-f]{32,64}")
_ARGUMENT: Final = re.compile(r"[A-Za-z0-9._/+:=,@%{}-]+")
ATTEMPT: Final = "{attempt}"
"""Stands for the attempt's folder, as the node sees it, in the arguments of a command."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job: a command for a key.

    Parameters
    ----------
    group
        Folder names above the key, for people (step, experiment).
    key
        What the result depends on, 32 to 64 hexadecimal digits; at most one job per key works at a time.
    command
        Arguments, started without a shell; `{attempt}` stands for the attempt's folder.
    request
        Content of `request.json` in the attempt's folder.
    resources, environment
        What the command needs.
    requeue
        Whether the scheduler may start the job again after a node was lost.
    warn_s
        Seconds before the time limit at which the command gets USR1, at most a quarter of the limit; 0 for none.
        Without a limit of its own a job gets no warning: the partition's may be shorter than the warning.
    """

    group: tuple[str, ...]
    key: str
    command: tuple[str, ...]
    request: bytes = b"{}"
    resources: Resources = field(default_factory=Resources)
    environment: Environment = field(default_factory=Environment)
    requeue: bool = True
    warn_s: int = 0

    def __post_init__(self) -> None:
        """Refuse names that cannot be paths, and arguments that a shell could change."""
        wrong = [f"folder name {part!r}" for part in self.group if not is_plain_name(part)]
        if not _KEY.fullmatch(self.key):
            wrong.append(f"key {self.key!r} is not 32 to 64 hexadecimal digits")
        if not self.command:
            wrong.append("no command")
        wrong += [f"argument {argument!r}" for argument in self.command if not _ARGUMENT.fullmatch(argument)]
        if not 0 <= self.warn_s <= 65535:
            wrong.append(f"warn_s = {self.warn_s} is not from 0 to 65535")
        refuse(wrong, where="description of a job")
