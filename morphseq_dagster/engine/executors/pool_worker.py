"""Pool worker: one process of a pool (`pool.py`); it is given a function once, then items one by one, over a pipe.

`python -m morphseq_dagster.engine.executors.pool_worker DESCRIPTOR PARENT` is how the pool starts it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from morphseq_dagster.engine.executors.child_process import end_with, limit_threads
from morphseq_dagster.errors import report


def serve(pool: Connection) -> None:
    """Answer every item with its result, or with the error that must stop the step, and the peak memory in KiB."""
    try:
        sys.path[:], threads = pool.recv()
        begin = pool.recv()
        limit_threads(threads)
        compute = begin()
        for item in iter(lambda: _receive(pool), None):
            _answer(pool, (compute(item), None))
    except Exception as error:  # noqa: BLE001 - the pool raises it in the step's own process
        _answer(pool, (None, report(error)))


def _receive(pool: Connection) -> Any:  # noqa: ANN401 - whatever the step's items are
    """Take the next item; None when there are no more."""
    try:
        return pool.recv()
    except EOFError:
        return None


def _answer(pool: Connection, answer: tuple[object, object]) -> None:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    with suppress(BrokenPipeError):
        pool.send((*answer, peak_kb))


if __name__ == "__main__":
    # Ctrl-C reaches the whole group: the pool decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever native code prints goes to the log: standard output may carry the progress of a runner.
    os.dup2(2, 1)
    end_with(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))
