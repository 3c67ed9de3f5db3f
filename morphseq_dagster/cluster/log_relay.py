"""Log relay: pass on what a job writes to its log, once, not faster than people read, with any bytes.

Holds the reading position of one log. Progress messages become progress, other lines go to the standard error stream.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from morphseq_dagster.engine.executors.protocol import Report
from morphseq_dagster.engine.executors.runner_outcome import relay_line

_CHUNK: Final = 256 * 1024
_LINES_PER_PUMP: Final = 100
_LONGEST: Final = 2000


class LogRelay:
    """The part of a log that was not passed on yet.

    Parameters
    ----------
    path
        The log; it need not be there yet.
    progress
        Told how far the step is.
    """

    def __init__(self, path: Path, *, progress: Report) -> None:
        self._progress = progress
        self._path = path
        self._offset = 0
        self._rest = b""

    def pump(self, *, last: bool = False) -> None:
        """Pass on what came since the last time; the file is opened anew, as network disks want it."""
        data = self._rest + self._read(whole=last)
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if last and self._rest:
            lines.append(self._rest)
            self._rest = b""
        plain = [line for line in lines if not line.startswith(b"{")]
        left_out = max(0, len(plain) - _LINES_PER_PUMP)
        dropped = 0
        for line in lines:
            if dropped < left_out and not line.startswith(b"{"):
                dropped += 1
                continue
            relay_line(line[:_LONGEST] + b"\n", progress=self._progress)
        if left_out:
            sys.stderr.write(f"slurm: {left_out} lines left out here, all are in {self._path}\n")

    def _read(self, *, whole: bool) -> bytes:
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._offset)
                data = handle.read(-1 if whole else _CHUNK)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data
