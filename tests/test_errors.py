"""Errors name what, where and the remedy, and survive the way to another process."""

from __future__ import annotations

import errno
import pickle

import pytest

from morphseq_dagster.errors import (
    ContractError,
    ErrorReport,
    MorphseqError,
    PermanentError,
    TransientError,
    report,
    restore,
)

PARTS = {"expected": "two files", "found": "one", "where": "/data/x", "remedy": "copy the other"}


@pytest.mark.parametrize(
    ("cls", "kind"), [(PermanentError, "permanent"), (TransientError, "transient"), (ContractError, "contract")]
)
def test_error_crosses_a_process_border_whole(cls: type[MorphseqError], kind: str) -> None:
    error = cls(**PARTS)
    told = report(error)
    assert told.kind == kind
    back = restore(ErrorReport.model_validate_json(told.model_dump_json()))
    assert type(back) is cls
    assert {name: getattr(back, name) for name in PARTS} == PARTS
    assert str(back) == str(error)


@pytest.mark.parametrize("cls", [PermanentError, TransientError, ContractError])
def test_error_survives_pickling_as_process_pools_need(cls: type[MorphseqError]) -> None:
    back = pickle.loads(pickle.dumps(cls(**PARTS)))
    assert type(back) is cls
    assert {name: getattr(back, name) for name in PARTS} == PARTS


def test_message_names_every_part() -> None:
    message = str(PermanentError(**PARTS))
    assert all(part in message for part in PARTS.values())


def test_contract_error_is_permanent_so_never_retried() -> None:
    assert issubclass(ContractError, PermanentError)
    assert not issubclass(TransientError, PermanentError)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EIO, "disk"),
    ],
)
def test_refusal_of_the_disk_is_transient_and_names_file_and_remedy(code: int, word: str) -> None:
    told = report(OSError(code, "words of the system", "/data/tables/x.csv"))
    assert told.kind == "transient"
    assert told.where == "/data/tables/x.csv"
    assert "words of the system" in told.found
    assert word in told.remedy
    back = restore(told)
    assert isinstance(back, TransientError)
    assert "/data/tables/x.csv" in str(back)
    assert word in str(back)


def test_error_of_the_system_without_a_file_is_still_told() -> None:
    told = report(OSError(errno.ENOSPC, "No space left on device"))
    assert told.kind == "transient"
    assert "No space left on device" in told.message
    assert told.where


def test_memory_error_is_transient() -> None:
    assert report(MemoryError("too much")).kind == "transient"


def test_unexpected_error_keeps_type_and_message_and_comes_back_as_permanent() -> None:
    told = report(ZeroDivisionError("division by zero"))
    assert (told.kind, told.type) == ("unexpected", "ZeroDivisionError")
    back = restore(told)
    assert type(back) is PermanentError
    assert "division by zero" in str(back)
    assert "ZeroDivisionError" in str(back)
