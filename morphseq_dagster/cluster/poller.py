"""Poller: two threads per process watch any number of jobs.

One thread lists the folder of end marks and reports success alone; the other asks the scheduler about all jobs at once.
They are apart because squeue hangs for 16 s when the controller is down, and a result must not wait for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job_files import read_end
from morphseq_dagster.cluster.job_handle import JobHandle, JobVerdict, SchedulerView
from morphseq_dagster.cluster.outcome import is_active

_FILES_S: Final = (0.1, 2.0)
_ASK_S: Final = (1.0, 15.0)
_SLOWER: Final = 1.4
_LEAST_S: Final = (0.025, 5.0)
"""Shortest pause between two questions: so much for each job that is watched or was begun lately, at most so much."""
_LATELY_S: Final = 30.0


@dataclass(frozen=True)
class JobStatus:
    """What was last known of a job.

    Parameters
    ----------
    state, reason, node
        As the controller shows them.
    answered_at
        Time of its answer (seconds since the epoch); None before the first.
    trouble
        Why there is no newer answer; empty while there is contact.
    """

    state: str = ""
    reason: str = ""
    node: str = ""
    answered_at: float | None = None
    trouble: str = ""


@dataclass(eq=False)
class Watch:
    """A watched job; `ended` is set when there is a verdict or the watching itself failed."""

    handle: JobHandle
    done: Callable[[], bool]
    ended: threading.Event = field(default_factory=threading.Event)
    status: JobStatus = field(default_factory=JobStatus)
    verdict: JobVerdict | None = None
    error: BaseException | None = None
    unclear_since: float | None = None
    judging: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, timeout_s: float) -> JobVerdict | None:
        """Wait some time for the verdict; None when there is none yet.

        Raises
        ------
        BaseException
            Whatever broke while the job was judged.
        """
        self.ended.wait(timeout_s)
        if self.error is not None:
            raise self.error
        return self.verdict


class Poller:
    """Watches the jobs of one client.

    Parameters
    ----------
    client
        The client.
    ask_s
        Shortest and longest pause between two questions to the scheduler.
    """

    def __init__(self, client: Client, *, ask_s: tuple[float, float] = _ASK_S) -> None:
        self._client = client
        self._ask_s = ask_s
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        self._begun: deque[float] = deque()
        self._marked: dict[str, float] = {}
        self._ask, self._list = threading.Event(), threading.Event()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def watch(self, handle: JobHandle, *, done: Callable[[], bool]) -> Watch:
        """Begin to watch a job."""
        watch = Watch(handle, done)
        with self._lock:
            if self._closed:
                raise ValueError("the poller is closed")
            self._watches[handle.attempt.token] = watch
            self._begun.append(time.monotonic())
            if not self._threads:
                for loop, name in ((self._watch_files, "slurm-files"), (self._watch_scheduler, "slurm-scheduler")):
                    thread = threading.Thread(target=loop, name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        self._ask.set()
        self._list.set()
        return watch

    def forget(self, watch: Watch) -> None:
        """Stop watching a job; it goes on. There is a verdict when this returns, or there never is one."""
        with watch.judging, self._lock:
            self._watches.pop(watch.handle.attempt.token, None)

    def close(self) -> None:
        """Stop watching anything."""
        with self._lock:
            self._closed = True
            self._watches.clear()
        self._ask.set()
        self._list.set()

    def _watch_files(self) -> None:
        pause = _FILES_S[0]
        while not self._closed:
            watches = self._open()
            if not watches:
                self._list.wait()
                self._list.clear()
                pause = _FILES_S[0]
                continue
            ended = self._read_inbox(watches)
            pause = _FILES_S[0] if ended else min(_FILES_S[1], pause * 1.05)
            if self._list.wait(pause):
                self._list.clear()
                pause = _FILES_S[0]

    def _read_inbox(self, watches: dict[str, Watch]) -> int:
        """Conclude what is done; a mark without a result lets the scheduler be asked, once."""
        try:
            names = {path.name for path in self._client.root.inbox.iterdir()}
        except OSError:
            return 0
        count = 0
        for token in sorted(names & watches.keys()):
            watch = watches[token]
            with self._guarded(watch):
                if watch.done():
                    self._conclude(watch, view=None, done=True)
                    count += 1
                elif (mark := _mark_of(watch)) != self._marked.get(token):
                    # The mark of a job's first life stays while it waits to be started again.
                    self._marked[token] = mark
                    self._ask.set()
        return count

    def _watch_scheduler(self) -> None:
        pause, asked = self._ask_s[0], float("-inf")
        while not self._closed:
            watches = self._open()
            if not watches:
                self._ask.wait()
                self._ask.clear()
                pause = self._ask_s[0]
                continue
            # Several jobs that begin or end at once are one question; many jobs are asked about every few seconds.
            least = min(_LEAST_S[1], max(len(watches), self._count_begun()) * _LEAST_S[0])
            time.sleep(max(min(0.1, self._ask_s[0]), asked + least - time.monotonic()))
            changed = self._ask_scheduler(list(self._open().values()))
            asked = time.monotonic()
            pause = max(least, self._ask_s[0]) if changed else min(self._ask_s[1], pause * _SLOWER)
            if self._ask.wait(pause):
                self._ask.clear()
                pause = self._ask_s[0]

    def _count_begun(self) -> int:
        """Count the jobs that were begun lately: short ones come and go, and few are there at any one time."""
        with self._lock:
            while self._begun and self._begun[0] < time.monotonic() - _LATELY_S:
                self._begun.popleft()
            return len(self._begun)

    def _ask_scheduler(self, watches: list[Watch]) -> bool:
        try:
            views = self._client.observe([watch.handle for watch in watches])
        except UnreachableError as error:
            for watch in watches:
                watch.status = JobStatus(**{**watch.status.__dict__, "trouble": error.found})
            return False
        except Exception as error:  # noqa: BLE001 - a dead thread would let everybody wait for ever, hence each gets the error
            for watch in watches:
                self._break(watch, error)
            return True
        changed = False
        for watch in watches:
            with self._guarded(watch):
                changed |= self._weigh(watch, view=views[watch.handle.attempt.token])
        return changed

    def _weigh(self, watch: Watch, *, view: SchedulerView) -> bool:
        before = watch.status
        active = isinstance(view.queue, Row) and is_active(view.queue)
        row = view.queue if isinstance(view.queue, Row) else view.account if isinstance(view.account, Row) else None
        state, reason, node = (row.state, row.reason or "", row.node) if row is not None else (before.state, "", "")
        watch.status = JobStatus(state, reason, node or before.node, time.time())
        now = time.monotonic()
        watch.unclear_since = None if active else watch.unclear_since or now
        if not active:
            unclear_s = 0.0 if watch.unclear_since is None else now - watch.unclear_since
            self._conclude(watch, view=view, done=watch.done(), unclear_s=unclear_s)
        return (before.state, before.reason) != (state, reason) or not active

    def _conclude(self, watch: Watch, *, view: SchedulerView | None, done: bool, unclear_s: float = 0.0) -> None:
        with watch.judging:
            if watch.handle.attempt.token not in self._open():
                return
            verdict = self._client.judge(watch.handle, done=done, view=view, unclear_s=unclear_s)
            if verdict is None:
                return
            with self._lock:
                self._watches.pop(watch.handle.attempt.token, None)
            self._marked.pop(watch.handle.attempt.token, None)
            watch.verdict = verdict
            watch.ended.set()

    @contextlib.contextmanager
    def _guarded(self, watch: Watch) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._break(watch, error)

    def _break(self, watch: Watch, error: BaseException) -> None:
        self.forget(watch)
        watch.error = error
        watch.ended.set()

    def _open(self) -> dict[str, Watch]:
        with self._lock:
            return dict(self._watches)


def _mark_of(watch: Watch) -> float:
    end = watch.handle.attempt.record("end")
    present = read_end(watch.handle.attempt, job=watch.handle.job)
    return float(end["t"]) if end is not None and present is not None else 0.0
