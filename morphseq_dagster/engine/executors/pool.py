"""Worker pool: processes that compute the wells of one step, within the processors and GPUs that were given.

A worker (`pool_worker.py`) is a fresh interpreter, so that threads and GPUs in use here harm nobody. It gets its thread
pools and its GPU by variables before it starts, dies with this process, and stays for one call of `map`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any, Final

from morphseq_dagster.engine.contract.workers import Item, Result
from morphseq_dagster.engine.executors.child_process import describe_end, thread_variables
from morphseq_dagster.errors import TransientError, restore

_WORKER: Final = "morphseq_dagster.engine.executors.pool_worker"


class WorkerLostError(TransientError):
    """A worker died in a well: native code crashed, or memory ran out.

    Parameters
    ----------
    code
        How it ended, as subprocess gives it: minus the signal's number, or the exit code.
    """

    def __init__(self, *, expected: str, found: str, where: str, remedy: str, code: int = 1) -> None:
        super().__init__(expected=expected, found=found, where=where, remedy=remedy)
        self.code = code


class WorkerPool:
    """Workers that a step may use.

    Parameters
    ----------
    size
        Workers at most.
    cpus
        Processors; each worker's thread pools get an equal share.
    gpus
        GPUs as CUDA_VISIBLE_DEVICES names them, one for each worker in turn; none leaves the variable as it is.
    """

    def __init__(self, *, size: int, cpus: int, gpus: tuple[str, ...] = ()) -> None:
        self.size, self.cpus, self.gpus = size, cpus, gpus
        self.peak_mb = 0.0
        """Sum of the peaks of the workers of one call, the largest of all calls, in MiB."""

    def map(
        self, begin: Callable[[], Callable[[Item], Result]], items: Mapping[str, Item]
    ) -> Iterator[tuple[str, Result]]:
        """Compute every item; see `Workers`.

        Raises
        ------
        WorkerLostError
            When a worker dies.
        MorphseqError
            What a worker met that is no property of its item (a full disk).
        """
        count = min(self.size, len(items))
        threads = max(1, self.cpus // max(1, count))
        waiting = deque(items.items())
        workers: list[_Worker] = []
        try:
            for number in range(count):
                gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[number % len(self.gpus)]} if self.gpus else {}
                workers.append(_Worker({**os.environ, **thread_variables(threads), **gpu}))
            for worker in workers:
                worker.send((sys.path, threads))
                worker.send(begin)
                worker.give(*waiting.popleft())
            while at_work := [worker for worker in workers if worker.item]:
                ready = wait([worker.pipe for worker in at_work])
                for worker in at_work:
                    if worker.pipe in ready:
                        yield worker.take()
                        if waiting:
                            worker.give(*waiting.popleft())
            for worker in workers:
                worker.pipe.close()
            for worker in workers:
                worker.process.wait()
        finally:
            for worker in workers:
                worker.end()
            self.peak_mb = max(self.peak_mb, sum(worker.peak_kb for worker in workers) / 1024)


class _Worker:
    """One worker as the pool sees it: its process, the pipe to it, and the item that it computes."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.item, self.peak_kb = "", 0
        self.pipe, far = Pipe()
        with far:
            # -P: modules come from our own path, which is sent, never from the folder where this was started.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER, str(far.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                env=variables,
                pass_fds=(far.fileno(),),
            )

    def send(self, message: object) -> None:
        """Send a message; that the worker is gone is noticed when its answer is taken."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def give(self, name: str, item: object) -> None:
        """Let it compute an item."""
        self.item = name
        self.send(item)

    def take(self) -> tuple[str, Any]:
        """Take its answer; raise what must stop the step."""
        try:
            result, stop, peak_kb = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._lost() from None
        self.peak_kb = max(self.peak_kb, peak_kb)
        if stop is not None:
            raise restore(stop)
        name, self.item = self.item, ""
        return name, result

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    def _lost(self) -> WorkerLostError:
        code = self.process.wait()
        return WorkerLostError(
            expected="every well to end with a result or a reason",
            found=f"a worker {describe_end(code)} in well {self.item}",
            where="workers of the step",
            remedy="see the log above; finished wells are kept; run again with more memory or fewer cpus",
            code=code,
        )
