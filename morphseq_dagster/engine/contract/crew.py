"""Crew: worker processes that compute the wells of one step, within the processors and GPUs that were given.

Holds the employer's side; the worker's is `worker`. A worker is a fresh process that runs the same body on the same
request, takes wells one by one instead of looping over them, and leaves each in its checkpoint: so a resumed well, a
well of a worker and a well of this process are the same bytes. Nothing is forked, hence threads and GPUs in use here
harm nobody.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.storage.records import WellState
from morphseq_dagster.errors import ErrorReport, TransientError, restore

_POOLS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
_CHUNK: Final = 65536


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Workers that a step may employ.

    Parameters
    ----------
    body
        `module:function` of the step's body.
    size
        Workers at most.
    cpus
        Processors; each worker's thread pools get an equal share.
    gpus
        GPUs as CUDA_VISIBLE_DEVICES names them, one for each worker in turn; none leaves the variable as it is.
    """

    body: str
    size: int
    cpus: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class WellCall:
    """One well to compute, and its key, which the worker must find as well."""

    well: str
    key: str


class WorkerLostError(TransientError):
    """A worker died in a well: native code crashed, or memory ran out.

    Parameters
    ----------
    code
        How it ended, as subprocess tells it: minus the signal's number, or the exit code.
    """

    def __init__(self, *, expected: str, found: str, where: str, remedy: str, code: int = 1) -> None:
        super().__init__(expected=expected, found=found, where=where, remedy=remedy)
        self.code = code


_CREW: ContextVar[Crew | None] = ContextVar("crew", default=None)
_PEAKS_KB: list[int] = [0]


@contextmanager
def employing(crew: Crew | None) -> Iterator[None]:
    """Let the step inside a `with` block employ workers; None lets it work alone."""
    token = _CREW.set(crew)
    try:
        yield
    finally:
        _CREW.reset(token)


def current_crew() -> Crew | None:
    """Crew of the step that runs now."""
    return _CREW.get()


def peak_of_crews_mb() -> float:
    """Sum of the peaks of a crew's workers, the largest of all crews so far, in MiB."""
    return max(_PEAKS_KB) / 1024


def pool_variables(threads: int) -> dict[str, str]:
    """Variables from which BLAS, OpenMP, torch and OpenCV take the size of their thread pools when they are loaded."""
    return dict.fromkeys(_POOLS, str(threads))


def limit_threads(threads: int) -> None:
    """Set the thread pools of this process, of what is loaded and of what will be."""
    os.environ.update(pool_variables(threads))
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def employ(crew: Crew, *, request: StepRequest, calls: Sequence[WellCall]) -> Iterator[tuple[str, WellState]]:
    """Have wells computed; yields each well's state as soon as it is known, in no fixed order.

    Raises
    ------
    WorkerLostError
        When a worker dies.
    MorphseqError
        What a worker met that is no property of its well (a full disk).
    """
    count = min(crew.size, len(calls))
    threads = max(1, crew.cpus // max(1, count))
    waiting = deque(calls)
    workers: list[_Worker] = []
    with selectors.DefaultSelector() as selector:
        try:
            for number in range(count):
                worker = _Worker(crew, request=request, threads=threads, number=number)
                workers.append(worker)
                selector.register(worker.output, selectors.EVENT_READ, worker)
                worker.call(waiting.popleft())
            while any(worker.at_work for worker in workers):
                for key, _ in selector.select():
                    worker = key.data
                    for answer in worker.read():
                        yield _take(answer)
                        if waiting:
                            worker.call(waiting.popleft())
            for worker in workers:
                worker.dismiss()
        finally:
            for worker in workers:
                worker.end()
            _PEAKS_KB.append(sum(worker.peak_kb for worker in workers))


def _take(answer: Mapping[str, Any]) -> tuple[str, WellState]:
    if "stop" in answer:
        raise restore(ErrorReport.model_validate(answer["stop"]))
    return answer["well"], WellState.model_validate(answer["state"])


@dataclass
class _Worker:
    """One worker process, as its employer sees it."""

    process: subprocess.Popen[bytes] = field(init=False)
    well: str = ""
    peak_kb: int = 0
    _rest: bytes = b""

    def __init__(self, crew: Crew, *, request: StepRequest, threads: int, number: int) -> None:
        variables = {**os.environ, **pool_variables(threads)}
        if crew.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = crew.gpus[number % len(crew.gpus)]
        # A session of its own would outlive a killed terminal; the signal to the group is ignored in the worker.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "morphseq_dagster.engine.contract.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
        )
        self._say(
            {
                "body": crew.body,
                "request": request.model_dump(mode="json"),
                "parent": os.getpid(),
                "threads": threads,
                "path": sys.path,
            }
        )

    @property
    def output(self) -> int:
        """File descriptor of its answers."""
        if self.process.stdout is None:
            raise RuntimeError("a worker has pipes")
        return self.process.stdout.fileno()

    @property
    def at_work(self) -> bool:
        """Whether it owes an answer."""
        return bool(self.well)

    def call(self, call: WellCall) -> None:
        """Give it a well."""
        self.well = call.well
        self._say({"well": call.well, "key": call.key})

    def read(self) -> list[dict[str, Any]]:
        """Take what it has answered.

        Raises
        ------
        WorkerLostError
            When it is gone.
        """
        data = os.read(self.output, _CHUNK)
        if not data:
            raise self._lost()
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = [json.loads(line) for line in lines]
        for answer in answers:
            self.well = ""
            self.peak_kb = max(self.peak_kb, int(answer.get("peak_kb", 0)))
        return answers

    def dismiss(self) -> None:
        """Let it end by itself, and wait for that."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()

    def end(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()

    def _say(self, message: Mapping[str, Any]) -> None:
        if self.process.stdin is None:
            raise RuntimeError("a worker has pipes")
        # A worker that is gone is noticed when it is read.
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _lost(self) -> WorkerLostError:
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (the usual sign of too little memory)" if name == "SIGKILL" else ""
            how = f"a worker was ended by {name}{hint}"
        else:
            how = f"a worker ended with code {code}"
        return WorkerLostError(
            expected="every well to end with a result or a reason",
            found=f"{how} in well {self.well}" if self.well else how,
            where="workers of the step",
            remedy="see the log above; finished wells are kept; run again with more memory or fewer cpus",
            code=code,
        )
