"""Outcome of a runner: what it leaves in a file, what it prints on the way, and what counts when it left nothing.

Every executor that starts a runner (`runner.py`) in another process reads this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.protocol import Report
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.commit import roll_forward
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.errors import ErrorReport


class RunnerOutcome(BaseModel):
    """What the runner leaves behind: a record or an error."""

    model_config = ConfigDict(frozen=True)

    record: Record | None = None
    error: ErrorReport | None = None


def read_outcome(path: Path) -> RunnerOutcome:
    """Read what the runner left; nothing when it left nothing or died while the disk refused it."""
    try:
        return RunnerOutcome.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return RunnerOutcome()


def find_new_record(layout: Layout, *, request: StepRequest, before: Record | None) -> Record | None:
    """Finish what the dead runner had begun to publish; its record, if it answers the request."""
    roll_forward(layout, step=request.step, experiment=request.experiment)
    record = read_record(layout, primary=layout.absolute(request.output))
    return record if record is not None and record != before and record.request_key == request.key else None


def relay_line(line: bytes, *, progress: Report) -> None:
    """Pass a progress message of the runner on; anything else that native code prints goes to the log."""
    try:
        message = json.loads(line)
        reported = Progress(message["step"], message["done"], message["total"], message["label"])
    except (ValueError, KeyError, TypeError):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
        return
    progress(reported)
