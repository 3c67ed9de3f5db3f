"""Commands of the scheduler: sbatch, squeue, sacct and scancel, many jobs in one call, read into typed rows.

Three answers are kept apart: no answer (`UnreachableError`), an answer without any row, and an answer without a certain
job. What follows from them is decided in `outcome.py` and `client.py`; how a command gets to its host is `transports/`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morphseq_dagster.cluster.errors import RejectedError, UnreachableError
from morphseq_dagster.cluster.transports.protocol import Answer, Transport
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import check_path

_SUBMITTED: Final = re.compile(r"(?P<job>[0-9]+)(?:;(?P<cluster>[A-Za-z0-9_.-]+))?")
_NO_CONTACT: Final = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "connection reset",
    "zero bytes were transmitted",
    "communication connection failure",
    "persistent connection",
    "problem talking to the database",
    "slurm temporarily unable to accept job",
    "unable to establish",
    "protocol authentication error",
    "transport endpoint is not connected",
    "resource temporarily unavailable",
    "controller is in standby mode",
)
_NO_ACCOUNTING: Final = ("accounting storage is disabled", "accounting_storage/none")
_SIGNALLED: Final = 128
_UNKNOWN_JOB: Final = ("invalid job id specified", "invalid job id")
_QUEUE_FIELDS: Final = ("JobID", "Name", "State", "Reason", "NodeList", "exit_code", "RestartCnt")
_ACCOUNT_FIELDS: Final = ("JobIDRaw", "JobName", "State", "ExitCode", "NodeList", "Restarts")
_BATCH: Final = 500
"""Jobs per call: far below what a command line may hold, and one call in practice."""


class Sighting(StrEnum):
    """How an answer shows that a job is not in it."""

    EMPTY = "empty answer"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class Row:
    """One job as squeue or sacct shows it; unknown fields are None.

    Parameters
    ----------
    job, name
        Number and name (the attempt's token).
    state, reason
        State without what follows it, and the reason: of waiting, or of the end as long as the controller remembers it.
    node
        Node, empty while the job waits.
    exit_code, signal
        Exit code and signal as the scheduler counts them.
    restarts
        Times the job was started again.
    """

    job: str
    name: str
    state: str
    reason: str | None = None
    node: str = ""
    exit_code: int | None = None
    signal: int | None = None
    restarts: int | None = None


@dataclass(frozen=True)
class Reply:
    """An answer about several jobs."""

    rows: Mapping[str, Row] = field(default_factory=dict)

    def of_job(self, job: str, *, name: str) -> Row | Sighting:
        """Row of a job; numbers start again after a controller was reset, hence the name must agree too."""
        row = self.rows.get(job)
        if row is not None and row.name == name:
            return row
        return Sighting.NOT_FOUND if self.rows else Sighting.EMPTY

    def of_name(self, name: str) -> Row | Sighting:
        """Newest row of a name."""
        found = [row for row in self.rows.values() if row.name == name]
        if found:
            return max(found, key=lambda row: int(row.job))
        return Sighting.NOT_FOUND if self.rows else Sighting.EMPTY


@dataclass(frozen=True)
class Submitted:
    """The answer of sbatch."""

    job: str
    cluster: str = ""


class Scheduler:
    """The scheduler's commands over a transport.

    Parameters
    ----------
    transport
        Way to a submit host.
    folder
        Folder of the commands there, for login shells without them on PATH.
    timeout_s
        Patience with one command; `sbatch` and `squeue` themselves give a dead controller about 16 s.
    """

    def __init__(self, transport: Transport, *, folder: str = "", timeout_s: float = 60) -> None:
        self._transport = transport
        self._folder = check_path(folder).rstrip("/") + "/" if folder else ""
        self._timeout_s = timeout_s
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._account_fields: tuple[str, ...] | None = None
        self.calls: Counter[str] = Counter()
        self.has_accounting: bool | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._transport.close()

    def submit(self, script: str) -> Submitted:
        """Submit a script.

        Raises
        ------
        RejectedError
            When the scheduler refuses it.
        UnreachableError
            When it is not known whether it took the job.
        """
        answer = self._call("sbatch", "--parsable", check_path(script))
        if answer.code != 0:
            # A command that a signal ended, on a login node that goes down, may have submitted before it died.
            if _mentions(answer, _NO_CONTACT) or not 0 < answer.code < _SIGNALLED:
                raise _no_answer("sbatch", answer)
            raise RejectedError(
                expected="the scheduler to take the job",
                found=_first_lines(answer.err) or f"sbatch ended with code {answer.code}",
                where=script,
                remedy="correct places.slurm in the machine settings; `sinfo` shows what the cluster has",
            )
        match = _SUBMITTED.fullmatch(answer.out.strip().splitlines()[-1]) if answer.out.strip() else None
        if match is None:
            raise _no_answer("sbatch", answer)
        return Submitted(match["job"], match["cluster"] or "")

    def queue(self, *, jobs: Sequence[str] = (), names: Sequence[str] = ()) -> Reply:
        """Ask the controller; ended jobs are shown as long as it remembers them."""
        form = ",".join(f"{name}:|" for name in _QUEUE_FIELDS)
        rows: dict[str, Row] = {}
        for option, values in (("-j", jobs), ("--name", names)):
            for some in _batches(values):
                answer = self._call("squeue", "-h", "-t", "all", option, ",".join(some), "-O", form)
                if answer.code != 0:
                    if len(some) == 1 and _mentions(answer, _UNKNOWN_JOB):
                        continue
                    raise _no_answer("squeue", answer)
                for line in answer.out.splitlines():
                    row = _read_queue(line)
                    if row is not None:
                        rows[row.job] = row
        return Reply(rows)

    def account(self, *, jobs: Sequence[str] = (), names: Sequence[str] = (), since_s: float = 86400) -> Reply | None:
        """Ask accounting; None where the cluster keeps none. Its rows trail the controller's by seconds."""
        fields = self._fields_of_accounting()
        if fields is None:
            return None
        rows: dict[str, Row] = {}
        # A start relative to now needs no agreement on clocks and time zones.
        since = ("-S", f"now-{max(60, int(since_s))}")
        for option, values in (("-j", jobs), ("--name", names)):
            for some in _batches(values):
                answer = self._call("sacct", "-n", "-P", *since, option, ",".join(some), "-o", ",".join(fields))
                if answer.code != 0:
                    raise _no_answer("sacct", answer)
                rows |= {row.job: row for row in _read_account(answer.out, fields=fields)}
        return Reply(rows)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs by number; ended ones are no error. Never with KILL, which destroys the evidence."""
        for some in _batches(jobs):
            answer = self._call("scancel", *some)
            if answer.code != 0 and (_mentions(answer, _NO_CONTACT) or not 0 < answer.code < _SIGNALLED):
                raise _no_answer("scancel", answer)

    def _fields_of_accounting(self) -> tuple[str, ...] | None:
        """Fields that this version knows; one unknown field fails a whole query."""
        with self._lock:
            if self.has_accounting is False:
                return None
            if self._account_fields is None:
                answer = self._call("sacct", "-e")
                if answer.code != 0:
                    if self._is_without_accounting(answer):
                        return None
                    raise _no_answer("sacct", answer)
                known = {name.lower() for name in answer.out.split()}
                self._account_fields = tuple(name for name in _ACCOUNT_FIELDS if name.lower() in known)
                probe = self._call("sacct", "-n", "-P", "-X", "-S", "now-1", "-o", "JobIDRaw")
                if self._is_without_accounting(probe):
                    return None
                if probe.code != 0:
                    self._account_fields = None
                    raise _no_answer("sacct", probe)
                self.has_accounting = True
            return self._account_fields

    def _is_without_accounting(self, answer: Answer) -> bool:
        if _mentions(answer, _NO_ACCOUNTING):
            self.has_accounting = False
            return True
        return False

    def _call(self, command: str, *arguments: str) -> Answer:
        with self._counting:
            self.calls[command] += 1
        return self._transport.run([f"{self._folder}{command}", *arguments], timeout_s=self._timeout_s)


def _read_queue(line: str) -> Row | None:
    """Read a line of squeue; half a line is no row."""
    parts = line.split("|")
    if len(parts) != len(_QUEUE_FIELDS) + 1 or not parts[0].strip().isdigit():
        return None
    job, name, state, reason, node, status, restarts = (part.strip() for part in parts[:-1])
    code, signal = _split_status(status)
    return Row(
        job=job,
        name=name,
        state=state.split(" ")[0],
        reason=reason if reason not in ("", "None") else None,
        node="" if node in ("(null)", "N/A") else node,
        exit_code=code,
        signal=signal,
        restarts=int(restarts) if restarts.isdigit() else None,
    )


def _read_account(text: str, *, fields: Sequence[str]) -> Iterator[Row]:
    """Read the lines of sacct about jobs; half a line is no row."""
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != len(fields):
            continue
        values = dict(zip(fields, parts, strict=True))
        number = values["JobIDRaw"]
        if not number.isdigit():
            continue  # a step of a job
        code, _, signal = values.get("ExitCode", "").partition(":")
        restarts = values.get("Restarts", "")
        yield Row(
            job=number,
            name=values["JobName"],
            state=values["State"].split(" ")[0],
            node="" if values.get("NodeList") in (None, "None assigned") else values["NodeList"],
            exit_code=int(code) if code.isdigit() else None,
            signal=int(signal) if signal.isdigit() else None,
            restarts=int(restarts) if restarts.isdigit() else None,
        )


def parse_clock_s(text: str) -> float | None:
    """Read a time such as `1-02:03:04` or `00:01.250` in seconds; None for a blank."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86400 + int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)


def _split_status(text: str) -> tuple[int | None, int | None]:
    """Split a wait status as squeue prints it: code in the high byte, signal in the low one."""
    if not text.isdigit():
        return None, None
    return int(text) >> 8, int(text) & 127


def _mentions(answer: Answer, texts: Sequence[str]) -> bool:
    words = f"{answer.err}\n{answer.out}".lower()
    return any(text in words for text in texts)


def _no_answer(command: str, answer: Answer) -> UnreachableError:
    return UnreachableError(
        expected=f"an answer of {command}",
        found=_first_lines(answer.err) or f"code {answer.code} and {answer.out[:200]!r}",
        where=f"command {command}",
        remedy="wait: jobs go on without us; the scheduler is asked again by itself",
    )


def _first_lines(text: str) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines()[:5])


def _batches(values: Sequence[str]) -> Iterable[list[str]]:
    for value in values:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise PermanentError(
                expected="a job's number or token", found=repr(value), where="question", remedy="report this"
            )
    for start in range(0, len(values), _BATCH):
        yield list(values[start : start + _BATCH])
