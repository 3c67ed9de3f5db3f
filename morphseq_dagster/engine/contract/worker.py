"""Worker: one process of a step's crew; takes wells from its standard input and answers on its standard output.

Holds the worker's side; the employer's is `crew`. It runs the step's body up to the loop over wells and serves calls
there instead of looping.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import IO, Any, Final

from morphseq_dagster.engine.contract.crew import limit_threads
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.storage.records import WellState
from morphseq_dagster.errors import PermanentError, report

_PR_SET_PDEATHSIG: Final = 1


class Service:
    """What a worker does at the loop over wells: calls in, states out, until there are no more.

    Parameters
    ----------
    calls, answers
        Streams of lines.
    """

    def __init__(self, *, calls: IO[bytes], answers: IO[bytes]) -> None:
        self._calls, self._answers = calls, answers

    def serve(self, keys: Mapping[str, str], *, work: Callable[[str], WellState]) -> None:
        """Answer every call.

        Parameters
        ----------
        keys
            Key of every well that this worker knows.
        work
            Computes one well into its checkpoint.

        Raises
        ------
        ServedOut
            Always, after the last call: the rest of the body is the employer's.
        PermanentError
            When the employer asks for a well that does not look as it does here.
        """
        for line in self._calls:
            call = json.loads(line)
            if keys.get(call["well"]) != call["key"]:
                raise PermanentError(
                    expected="the inputs that the step began with",
                    found="others",
                    where=f"well {call['well']}",
                    remedy="something changed while the step ran: run it again",
                )
            self.answer({"well": call["well"], "state": work(call["well"]).model_dump(mode="json")})
        raise ServedOut

    def answer(self, message: Mapping[str, Any]) -> None:
        """Write one line, with the peak memory of this process."""
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
        with suppress(BrokenPipeError):
            self._answers.write(json.dumps({**message, "peak_kb": peak_kb}).encode() + b"\n")
            self._answers.flush()


class ServedOut(BaseException):
    """There are no more calls; no error, hence it passes every handler of failures on its way out."""


_SERVICE: ContextVar[Service | None] = ContextVar("service", default=None)


def current_service() -> Service | None:
    """Service of this process, if it is a worker."""
    return _SERVICE.get()


def main() -> int:
    """Serve one employer; return 0 when it has no more calls."""
    # Ctrl-C reaches the whole group: the employer decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls = sys.stdin.buffer
    # Whatever native code prints goes to the log, never between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    opening = json.loads(calls.readline() or b"{}")
    if not opening:
        return 1
    _end_with(opening["parent"])
    sys.path[:] = opening["path"]
    service = Service(calls=calls, answers=answers)
    _SERVICE.set(service)
    try:
        module, _, function = opening["body"].partition(":")
        body = getattr(importlib.import_module(module), function)
        limit_threads(opening["threads"])
        body(StepRequest.model_validate(opening["request"]))
    except ServedOut:
        return 0
    except Exception as error:  # noqa: BLE001 - told to the employer, who raises it
        service.answer({"stop": report(error).model_dump(mode="json")})
        return 1
    service.answer({"stop": report(RuntimeError("the step has no loop over wells")).model_dump(mode="json")})
    return 1


def _end_with(parent: int) -> None:
    """Die with the employer, however it ends; elsewhere than on Linux an idle worker ends with its input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the step that employed this worker is gone")


if __name__ == "__main__":
    # This module under its own name: that is the one which the loop over wells asks.
    sys.exit(importlib.import_module("morphseq_dagster.engine.contract.worker").main())
