"""Errors of the project: what was expected, what was found, where, and what mends it.

`report` and `restore` carry an error across a process border; retries are decided by whoever runs a step.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ErrorKind = Literal["permanent", "transient", "contract", "unexpected"]


class MorphseqError(Exception):
    """Base of all errors that a user meets.

    Parameters
    ----------
    expected, found, where, remedy
        Four sentences or phrases; `where` names the file, well, cell or setting and `remedy` the command or
        edit that mends it.
    """

    kind: ErrorKind = "permanent"

    def __init__(self, *, expected: str, found: str, where: str, remedy: str) -> None:
        self.expected, self.found, self.where, self.remedy = expected, found, where, remedy
        super().__init__(f"{where}: expected {expected}; found {found}. Remedy: {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are unpickled from their positional arguments, and these are keyword-only.
        parts = {"expected": self.expected, "found": self.found, "where": self.where, "remedy": self.remedy}
        return partial(type(self), **parts), ()


class PermanentError(MorphseqError):
    """Bad input or configuration: trying again without a change cannot help, so it is never retried."""

    kind: ErrorKind = "permanent"


class TransientError(MorphseqError):
    """The surroundings failed (disk full, node lost, memory): the same request may succeed later."""

    kind: ErrorKind = "transient"


class ContractError(PermanentError):
    """An artifact breaks its contract; all violations of the file are named at once."""

    kind: ErrorKind = "contract"


def name_some(names: Sequence[str], *, most: int = 5, separator: str = ", ") -> str:
    """Name the first of many, and how many more there are.

    >>> name_some(["A01", "A02", "A03"], most=2)
    'A01, A02 and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


class ErrorReport(BaseModel):
    """An error as data: stored in failure records and sent between processes."""

    model_config = ConfigDict(frozen=True)

    kind: ErrorKind
    type: str
    message: str
    expected: str = ""
    found: str = ""
    where: str = ""
    remedy: str = ""


_ROOM = "make free space there, then run again; finished work is kept"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "the file system is read-only: mount it writable, or choose another data root",
    errno.EACCES: "give the user who runs this write permission there",
    errno.EPERM: "give the user who runs this write permission there",
    errno.EIO: "the disk or its connection failed: look at the system's log, then run again",
}

_CLASSES: dict[str, type[MorphseqError]] = {
    "permanent": PermanentError,
    "transient": TransientError,
    "contract": ContractError,
}


def report(error: BaseException) -> ErrorReport:
    """Turn any exception into data; operating-system failures count as transient.

    A full disk, a failing fsync or rename and a lack of memory say nothing about the input, hence transient.
    """
    if isinstance(error, MorphseqError):
        return ErrorReport(
            kind=error.kind,
            type=type(error).__name__,
            message=str(error),
            expected=error.expected,
            found=error.found,
            where=error.where,
            remedy=error.remedy,
        )
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return ErrorReport(
            kind="transient",
            type=type(error).__name__,
            message=message,
            expected="the operating system to do as asked",
            found=f"{type(error).__name__}: {error.strerror or error}",
            where=str(error.filename or "an operation without a file name"),
            remedy=_REMEDIES.get(error.errno or 0, "run again; `morphseq doctor` checks the machine"),
        )
    kind: ErrorKind = "transient" if isinstance(error, MemoryError) else "unexpected"
    return ErrorReport(kind=kind, type=type(error).__name__, message=message)


def restore(told: ErrorReport) -> MorphseqError:
    """Rebuild the exception that another process reported."""
    cls = _CLASSES.get(told.kind, PermanentError)
    return cls(
        expected=told.expected or "the step to finish",
        found=told.found or told.message,
        where=told.where or told.type,
        remedy=told.remedy or "read the log of the step; `morphseq doctor` checks the machine",
    )
