"""Launch: a run through the pipeline's own Dagster jobs, in this process, with its progress.

Verbs import this module only when they run something, because the import of Dagster takes time; most of them go through
`runs.py`. What the user sees of a run is `display.py`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dagster as dg
from dagster import DagsterEventType, EventLogEntry
from dotenv import dotenv_values

from morphseq_dagster.assets.description import MEMO_TAG
from morphseq_dagster.assets.factory import FORCE_TAG
from morphseq_dagster.build import COHORT_JOB, PIPELINE_JOB, build_definitions
from morphseq_dagster.cli.display import Display, RunOutcome, StepEvent
from morphseq_dagster.cli.options import Call
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.step_locks import process_start
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.partitions import register_keys
from morphseq_dagster.runs.interruption import execute, is_interrupt
from morphseq_dagster.runs.listeners import listening
from morphseq_dagster.runs.states import PROCESS_TAG

HOME_VARIABLE: Final = "DAGSTER_HOME"
_NOTHING: Final[Mapping[str, Any]] = {}


@contextmanager
def open_instance() -> Iterator[tuple[dg.DagsterInstance, bool]]:
    """Open the Dagster instance of this machine, and whether it keeps its history.

    Without DAGSTER_HOME (exported or in `.env`) the history lives as long as this process: records and artifacts are
    the same, only the web page shows nothing.
    """
    home = find_home()
    if home is None:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance, False
        return
    os.environ[HOME_VARIABLE] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance, True


def find_home() -> Path | None:
    """Folder of the Dagster instance as Dagster itself would choose it; None when nothing names one.

    Raises
    ------
    PermanentError
        When it is no absolute path of an existing folder.
    """
    text = os.environ.get(HOME_VARIABLE) or dotenv_values(".env").get(HOME_VARIABLE)
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_absolute() or not path.is_dir():
        raise PermanentError(
            expected="the absolute path of a folder",
            found=text,
            where=HOME_VARIABLE,
            remedy=f"mkdir -p {path.absolute()} (or `make install`), and name it absolutely",
        )
    return path


class Launcher:
    """Runs of one call.

    Parameters
    ----------
    call
        Settings, workspace and pipeline.
    instance
        The Dagster instance.
    """

    def __init__(self, call: Call, *, instance: dg.DagsterInstance) -> None:
        self._call = call
        self._instance = instance
        self._definitions = build_definitions(call.settings, pipeline=call.pipeline)

    def register(self, experiments: Collection[str]) -> None:
        """Make experiments known to Dagster."""
        register_keys(self._instance, experiments, pipeline=self._call.workspace.pipeline)

    def run(self, experiment: str, *, steps: Sequence[str], forced: Sequence[str] = (), display: Display) -> RunOutcome:
        """Run steps of one experiment through the pipeline job; a failure is an outcome, not an exception.

        Raises
        ------
        KeyboardInterrupt
            When Ctrl-C or TERM ended it; the run is cancelled.
        """
        self.register([experiment])
        tags = {FORCE_TAG: ".".join(forced)} if forced else {}
        return self._run(PIPELINE_JOB, experiment=experiment, steps=steps, tags=tags, display=display)

    def run_cohort(self, *, display: Display) -> RunOutcome:
        """Run the job of the cohort; interrupted as `run` is.

        Raises
        ------
        PermanentError
            When the pipeline has no cohort.
        """
        if self._call.workspace.pipeline.cohort is None:
            raise PermanentError(
                expected="a pipeline with a cohort",
                found="none in this pipeline",
                where=self._call.pipeline,
                remedy="use the project's own pipeline",
            )
        return self._run(COHORT_JOB, experiment="", steps=(), tags={}, display=display)

    def _run(
        self, job: str, *, experiment: str, steps: Sequence[str], tags: Mapping[str, str], display: Display
    ) -> RunOutcome:
        started = time.monotonic()
        events: list[StepEvent] = []
        display.begin(experiment or job)

        def listen(entry: EventLogEntry) -> None:
            event = _translate(entry)
            if event is not None:
                events.append(event)
                display.note(event)

        with listening(lambda event: display.progress(event) if isinstance(event, Progress) else None):
            result = self.execute(job, experiment=experiment, steps=steps, tags=tags, listen=listen)
        seconds = time.monotonic() - started
        outcome = _summarise(experiment, steps=steps, events=events, success=result.success, seconds=seconds)
        display.finish(outcome)
        return outcome

    def execute(
        self,
        job: str,
        *,
        experiment: str = "",
        steps: Sequence[str] = (),
        config: Mapping[str, Any] = _NOTHING,
        tags: Mapping[str, str] = _NOTHING,
        listen: Callable[[EventLogEntry], None] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process; interrupted as `run` is."""
        level = "INFO" if self._call.verbose else "CRITICAL"
        return execute(
            self._definitions.resolve_job_def(job),
            instance=self._instance,
            listen=listen,
            run_config={"loggers": {"console": {"config": {"log_level": level}}}, **config},
            partition_key=experiment or None,
            asset_selection=[dg.AssetKey(step) for step in steps] or None,
            tags={**tags, PROCESS_TAG: describe_process()},
        )


def select_steps(call: Call, selection: str) -> tuple[str, ...]:
    """Steps of the pipeline that a selection in Dagster's language names, in order.

    Raises
    ------
    PermanentError
        When it names nothing.
    """
    graph = build_definitions(call.settings, pipeline=call.pipeline).resolve_asset_graph()
    names = call.workspace.pipeline.step_names
    found: set[str] = set()
    problem = ""
    try:
        for part in selection.split(","):
            with warnings.catch_warnings():
                # Dagster's own reading of "*" sets a parameter that it calls beta.
                warnings.filterwarnings("ignore", "Parameter `include_sources`", dg.BetaWarning)
                keys = dg.AssetSelection.from_string(part.strip()).resolve(graph)
            found |= {key.path[-1] for key in keys}
            problem = problem or ("" if keys else f"nothing is called {part.strip()!r}")
    except dg.DagsterError as error:
        problem = str(error).splitlines()[0]
    steps = tuple(name for name in names if name in found)
    if problem or not steps:
        raise PermanentError(
            expected="assets such as '*', 'ff_images', '*sam2_metadata' (with all before it) or 'qc_staged*'",
            found=problem or repr(selection),
            where="--select",
            remedy="assets: " + ", ".join(names),
        )
    return steps


def describe_process() -> str:
    """Describe the own process for the tag of a run: host, number, start."""
    return f"{host_name()}:{os.getpid()}:{process_start(os.getpid())}"


def _summarise(
    experiment: str, *, steps: Sequence[str], events: list[StepEvent], success: bool, seconds: float
) -> RunOutcome:
    def having(kind: str) -> tuple[str, ...]:
        return tuple(event.step for event in events if event.kind == kind)

    failed = tuple((event.step, event.message) for event in events if event.kind == "failed")
    if not success and not failed:
        failed = (("", "the run failed; the log of Dagster has the reason (--verbose)"),)
    tried = {event.step for event in events}
    untried = tuple(step for step in steps if step not in tried)
    return RunOutcome(experiment, having("made"), having("standing"), failed, untried, seconds)


def _translate(entry: EventLogEntry) -> StepEvent | None:
    """Translate an event of Dagster; None for those that nobody waits for."""
    event = entry.dagster_event
    if event is None:
        return None
    step = event.step_key or ""
    if event.event_type is DagsterEventType.STEP_START:
        return StepEvent(step, "started")
    if event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
        tags = event.step_materialization_data.materialization.tags or {}
        return StepEvent(step, "standing" if tags.get(MEMO_TAG) == "hit" else "made")
    if is_interrupt(event):
        return StepEvent(step, "failed", "interrupted") if step else None
    if event.event_type is DagsterEventType.STEP_FAILURE:
        data = event.step_failure_data
        text = data.user_failure_data.description if data.user_failure_data is not None else None
        return StepEvent(step, "failed", text or _innermost(data.error))
    return None


def _innermost(error: object) -> str:
    """Message of the first cause of an error as Dagster keeps it."""
    cause = getattr(error, "cause", None)
    return _innermost(cause) if cause is not None else str(getattr(error, "message", error)).strip()
