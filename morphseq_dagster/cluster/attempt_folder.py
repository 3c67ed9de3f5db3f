"""Attempt folders: one folder per attempt at a request, with small JSON records of what has happened to it.

Three acts are exclusive: making the folder, making its symbolic link `claim` (to the number of the job that works, or
to `void` when a client gave the attempt up), and closing it with a verdict. A pilot job (`pilot/job.py`) is an attempt
too; its file `members` lists the attempts that are its tasks. What a job leaves in its folder is read by
`job_files.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.storage.atomic_io import sync_folder, write_whole

INBOX: Final = "_ended"
VOID: Final = "void"
PILOTS: Final = "_packs"
_ATTEMPT: Final = re.compile(r"a([1-9][0-9]{0,5})")
_KEY_IN_TOKEN: Final = 32
_PILOT: Final = re.compile(r"ms\.([0-9a-f]{32})\.[0-9a-f]{8}\.a1")
_TASKS: Final = "members"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a request.

    Parameters
    ----------
    folder
        Its folder, as this host sees it.
    there
        The same as the nodes see it.
    number
        Counts from 1.
    token
        Name of the job; unique per request, attempt and root, and short enough for accounting.
    inbox
        Folder for the mark that the job leaves when it ends.
    """

    folder: Path
    there: str
    number: int
    token: str
    inbox: Path

    def path(self, name: str) -> Path:
        """Path of one of the attempt's files."""
        return self.folder / name

    def record(self, name: str) -> dict[str, Any] | None:
        """Read a record: intent, job, start, end, usage, seen, cancel, closed.

        Half a record, an empty one and no JSON count as none: the writer may be a node with a full disk.
        """
        try:
            found = json.loads(self.path(f"{name}.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, **values: object) -> None:
        """Write a record that survives a power cut."""
        self._write(name, values, flush=True)

    def note(self, name: str, **values: object) -> None:
        """Write a record that only a power cut may destroy."""
        self._write(name, values, flush=False)

    def _write(self, name: str, values: Mapping[str, object], *, flush: bool) -> None:
        data = (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()
        write_whole(self.path(f"{name}.json"), data, flush=flush)

    def intend(self, *, resources: Mapping[str, object], run_id: str, **more: object) -> None:
        """Record that this process is about to submit a job that asks for these resources."""
        self.write(
            "intent",
            t=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            run_id=run_id,
            token=self.token,
            resources=resources,
            **more,
        )

    @property
    def intent(self) -> dict[str, Any]:
        """The record that a job is about to be submitted; empty before that."""
        return self.record("intent") or {}

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wants it cancelled."""
        return self.record("cancel") is not None

    @property
    def job(self) -> str | None:
        """Number of its job, from the answer of sbatch or from `claim`; a task has the number of its pilot job."""
        record = self.record("job")
        if record is not None and str(record.get("job", "")).isdigit():
            return str(record["job"])
        owner = self.owner()
        if owner is not None and owner != VOID:
            return owner
        pilot = self.pilot
        return None if pilot is None else pilot.job

    @property
    def pilot(self) -> Attempt | None:
        """The pilot job that it is a task of; None for an attempt with a job of its own."""
        match = _PILOT.fullmatch(str(self.intent.get("pack", "")))
        if match is None:
            return None
        root = self.inbox.parent
        there = self.there.rsplit("/", len(self.folder.relative_to(root).parts))[0]
        below = f"{PILOTS}/{match[1]}/a1"
        return Attempt(folder=root / below, there=f"{there}/{below}", number=1, token=match[0], inbox=self.inbox)

    @property
    def run_id(self) -> str | None:
        """Run that it works for: the last one that took it over, or the one that submitted it; None for neither."""
        record = self.record("adopted") or self.record("intent")
        return None if record is None else str(record.get("run_id", ""))

    def belongs_to(self, run_id: str) -> bool:
        """Whether this run submitted it."""
        return bool(self.intent) and self.intent.get("run_id", "") == run_id

    @property
    def is_follower(self) -> bool:
        """Whether its pilot job began it by itself, after another task."""
        return self.intent.get("after") is not None

    @property
    def name(self) -> str:
        """Name of its job at the scheduler."""
        pilot = self.pilot
        return self.token if pilot is None else pilot.token

    def write_tasks(self, tasks: Sequence[Attempt]) -> None:
        """List the tasks of a pilot job: token, and folder below the root."""
        write_whole(self.path(_TASKS), "".join(map(_line_of, tasks)).encode())

    def add_task(self, task: Attempt) -> None:
        """List one more task; only the pilot job itself does so."""
        with self.path(_TASKS).open("a") as handle:
            handle.write(_line_of(task))
            handle.flush()
            os.fsync(handle.fileno())

    def tasks(self) -> list[Attempt]:
        """Tasks of a pilot job in the order in which it takes them; none for any other attempt."""
        try:
            text = self.path(_TASKS).read_text()
        except FileNotFoundError:
            return []
        root, there = self.inbox.parent, self.there.rsplit("/", 3)[0]
        found = []
        for line in text.split("\n")[:-1]:  # one that has no end yet is being written
            token, _, below = line.partition(" ")
            number = int(token.rpartition(".a")[2])
            found.append(Attempt(root / below, f"{there}/{below}", number, token, self.inbox))
        return found

    @property
    def is_closed(self) -> bool:
        """Whether there is a verdict."""
        return self.record("closed") is not None

    @property
    def age_s(self) -> float:
        """Seconds since the intent to submit, or since the folder was made when there is none."""
        intent = self.intent
        begun = float(intent["t"]) if intent else self.folder.stat().st_mtime
        return max(0.0, time.time() - begun)

    def owner(self) -> str | None:
        """Who may act: a job's number, `void`, or nobody yet."""
        try:
            return str((self.folder / "claim").readlink())
        except FileNotFoundError:
            return None

    def give_up(self, *, flush: bool = True) -> bool:
        """Make `claim` point to `void`, so that no job can work in this attempt; False when a job was first."""
        try:
            (self.folder / "claim").symlink_to(VOID)
        except FileExistsError:
            return self.owner() == VOID
        if flush:
            sync_folder(self.folder)
        return True

    def close(self, *, kind: str, reason: str = "", state: str = "", job: str = "", **more: object) -> None:
        """Write the verdict, once; the first one stands. The verdict on the last task closes its pilot job."""
        if not self.is_closed:
            self.write("closed", kind=kind, t=time.time(), reason=reason, state=state, job=job, **more)
        with contextlib.suppress(FileNotFoundError):
            (self.inbox / self.token).unlink()
        pilot = self.pilot
        if pilot is None:
            return
        tasks = pilot.tasks()
        # The last ones are the last to be taken, so that this looks at few.
        if tasks and all(task.is_closed for task in reversed(tasks)):
            kind = "cancelled" if pilot.cancel_requested else "done"
            pilot.close(kind=kind, job=pilot.job or "", reason="each task has its verdict")


def _line_of(task: Attempt) -> str:
    return f"{task.token} {task.folder.relative_to(task.inbox.parent).as_posix()}\n"


class JobRoot:
    """All requests below one root.

    Parameters
    ----------
    root
        Folder, as this host sees it.
    there
        The same folder as the nodes see it; equal unless given.
    """

    def __init__(self, root: Path, *, there: str | None = None) -> None:
        self.root = root
        self.there = str(root) if there is None else there.rstrip("/")
        # Two data roots may hold the same request, and their jobs must have different names.
        self._mark = hashlib.sha256(self.there.encode()).hexdigest()[:8]

    @property
    def inbox(self) -> Path:
        """Folder of end marks."""
        return self.root / INBOX

    def attempts(self, group: tuple[str, ...], *, key: str) -> list[Attempt]:
        """Attempts at a request, oldest first."""
        folder = self.root.joinpath(*group, key)
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []
        numbers = sorted(int(match[1]) for name in names if (match := _ATTEMPT.fullmatch(name)))
        return [self.attempt(group, key=key, number=number) for number in numbers]

    def attempt(self, group: tuple[str, ...], *, key: str, number: int) -> Attempt:
        """Name an attempt, which need not exist."""
        name = f"a{number}"
        return Attempt(
            folder=self.root.joinpath(*group, key, name),
            there="/".join((self.there, *group, key, name)),
            number=number,
            token=f"ms.{key[:_KEY_IN_TOKEN]}.{self._mark}.{name}",
            inbox=self.inbox,
        )

    def next_attempt(self, group: tuple[str, ...], *, key: str) -> Attempt | None:
        """Name the attempt that may be begun now; None while one is open."""
        attempts = self.attempts(group, key=key)
        if attempts and not attempts[-1].is_closed:
            return None
        return self.attempt(group, key=key, number=attempts[-1].number + 1 if attempts else 1)

    def begin(self, attempt: Attempt) -> bool:
        """Make an attempt's folder; False when somebody else made it."""
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        self.inbox.mkdir(exist_ok=True)
        try:
            attempt.folder.mkdir()
        except FileExistsError:
            return False
        sync_folder(attempt.folder.parent)
        return True

    def open_attempts(
        self, group: tuple[str, ...] = (), *, depth: int = 2
    ) -> Iterator[tuple[tuple[str, ...], str, Attempt]]:
        """Yield group, key and attempt of everything without a verdict below a group.

        Parameters
        ----------
        group
            First folder names; all when empty.
        depth
            Number of folder names above a key.
        """
        above = self.root.joinpath(*group)
        for folder in sorted(above.glob("/".join(["*"] * (depth - len(group) + 1)))):
            parts = folder.relative_to(self.root).parts
            if parts[0] == INBOX or not folder.is_dir():
                continue
            for attempt in self.attempts(parts[:-1], key=parts[-1]):
                if not attempt.is_closed:
                    yield parts[:-1], parts[-1], attempt
