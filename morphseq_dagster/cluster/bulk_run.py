"""Bulk runs: many experiments at once in one process, each on its own way through its steps.

The loop decides who may begin a step, takes in the jobs that have ended, and stops an experiment whose step failed
while the others go on. A step at the cluster is a request job that is watched beside all others; a step of this machine
runs right here, one at a time, so that no two share a GPU. Which steps share a pilot job is chosen in
`pilot/sharing.py`, and what is known of one experiment is `experiment_progress.py`. The Dagster job around it is
`jobs/bulk.py`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from itertools import islice, takewhile
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from morphseq_dagster.cluster.connection import Contact, log
from morphseq_dagster.cluster.errors import RejectedError, UndecidedError, UnreachableError
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import (
    BusyError,
    Event,
    ExperimentProgress,
    StepFailed,
    StepMade,
    StepUpToDate,
)
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.pilot.chaining import can_follow
from morphseq_dagster.cluster.pilot.sharing import SMALL_S, Ready, Share, Sharing, sort_alike
from morphseq_dagster.cluster.poller import JobStatus
from morphseq_dagster.cluster.request_job import RequestJob, cancel_requests, submit_together
from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Executor
from morphseq_dagster.engine.locked_step import discard_unpublished, finish, lock_step
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.storage.step_locks import StepLock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, report, restore

_TICK_S: Final = 0.1
_RECONNECT_S: Final = 5.0
_SUMMARY_S: Final = 10.0
_NEVER: Final = frozenset(("PartitionConfig", "BadConstraints", "PartitionTimeLimit", "PartitionNodeLimit"))
"""Reasons of the scheduler to wait for what the cluster does not have."""


class BulkRun:
    """Many experiments on their way; a context, so that leaving it cancels what is still at work.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    chains
        Experiment to the steps that it goes through, in order.
    executor_of
        Place of a step of an experiment.
    run_id
        On whose behalf.
    forced
        Steps that run although nothing changed.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        chains: Mapping[str, Sequence[str]],
        executor_of: Callable[[str, str], Executor],
        run_id: str,
        forced: AbstractSet[str] = frozenset(),
    ) -> None:
        self._workspace = workspace
        self._executor_of = executor_of
        self._run_id = run_id
        self._forced = forced
        self._under_way = {name: ExperimentProgress(name, deque(steps)) for name, steps in chains.items() if steps}
        self._out: dict[str, ExperimentProgress] = {}  # those with a request job; the order is that of submission
        self._sharing = Sharing(workspace)
        self._weighed: set[tuple[str, str]] = set()  # experiments and steps that may have a job of their own
        self._pilots: list[list[ExperimentProgress]] = []
        self._chains: dict[Path, tuple[RequestJob, JobHandle]] = {}  # by the folder of the pilot job that each is
        self._contact = Contact()
        self._trouble = ""  # why the cluster did not answer
        self._latest = JobStatus()  # of the job that ended last
        self._silent_until = 0.0
        self._summary: tuple[float, Counter[str]] = (time.monotonic(), Counter())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel all jobs that are at work, in one call, and release every lock."""
        with ExitStack() as ending:
            for progress in self._under_way.values():
                ending.callback(progress.end, error or RuntimeError("the bulk run was left"))
            jobs = [job for progress in self._under_way.values() if (job := progress.request_job) is not None]
            cancel_requests(jobs, chains=list(self._chains.values()))
        self._under_way.clear()
        self._out.clear()

    def events(self) -> Iterator[Event]:
        """Take every experiment through its steps; yield what was made, is up to date or failed as it happens.

        While there is no contact the run waits. A failure is an event; an exception concerns all experiments.
        """
        while self._under_way:
            yield from self._settle_ended()
            self._log_status()
            self._give_up_unplaceable()
            yield from self._share_ready()
            moved = False
            here: ExperimentProgress | None = None
            for progress in list(self._under_way.values()):
                if not self._may_go(progress):
                    continue
                if not isinstance(self._choose_place(progress), SlurmExecutor):
                    here = here or progress
                    continue
                if (progress.experiment, progress.steps[0]) not in self._weighed:
                    continue  # it waits for others, or came to this step just now and is asked about sharing first
                moved = True
                yield from self._hand_on(progress, self._drive(progress))
                yield from self._settle_ended()
            if here is not None:
                yield from self._hand_on(here, self._drive(here))
            elif not moved:
                time.sleep(_TICK_S)

    def _share_ready(self) -> Iterator[Event]:
        """Submit as one job what shall share one; the others are left as they are."""
        ready = {
            progress.experiment: progress
            for progress in self._under_way.values()
            if self._may_go(progress) and isinstance(self._choose_place(progress), SlurmExecutor)
        }
        shared = [progress for progress in self._out.values() if progress.shared]
        choice = self._sharing.choose(
            [self._describe(progress) for progress in ready.values()],
            coming=Counter(step for progress in shared for step in islice(progress.steps, 1, None)),
            at_work=Counter(progress.steps[0] for progress in shared),
        )
        self._weighed = {(progress.experiment, progress.steps[0]) for progress in ready.values()} - {
            (name, ready[name].steps[0]) for name in choice.awaiting
        }
        for share in choice.shares:
            together = []
            for progress in [ready[name] for name in share.experiments]:
                if progress.request_job is None and len(self._out) >= share.settings.max_jobs:
                    break
                yield from self._hand_on(progress, self._drive(progress, submit=False))
                if progress.request_job is not None and progress.request_job.is_fresh():
                    together.append((progress, progress.request_job))
            for alike in sort_alike([request_job.resources for _, request_job in together]):
                tasks = [together[number] for number in alike]
                # An attempt after a failure may ask for more: it goes alone, unless there are many of them.
                goes_on = bool(share.then) and tasks[0][1].resources == share.resources
                if goes_on or (share.workers > 1 and len(alike) > share.settings.pack_above):
                    yield from self._submit_together(tasks, share=share)

    def _describe(self, progress: ExperimentProgress) -> Ready:
        """Describe which of the steps to go one job could make, from the first one on."""
        place = self._choose_place(progress)
        if not isinstance(place, SlurmExecutor):
            raise TypeError("only steps at the cluster share a job")
        if progress.ahead is None:
            first, *others = progress.steps
            # What is forced is asked for singly: a job that goes on computes what is not up to date.
            others = others if place.settings.chain and first not in self._forced else []
            progress.ahead = (first, *takewhile(lambda step: self._goes_on(progress, step, place=place), others))
        return Ready(progress.experiment, progress.ahead, place, again=progress.request_job is not None)

    def _goes_on(self, progress: ExperimentProgress, step: str, *, place: SlurmExecutor) -> bool:
        there = self._executor_of(step, progress.experiment)
        if step in self._forced or not isinstance(there, SlurmExecutor) or there.settings != place.settings:
            return False
        try:
            return can_follow(self._workspace, step=step, experiment=progress.experiment)
        except MorphseqError:
            return False  # the step raises it itself, when it is its turn

    def _submit_together(
        self, tasks: Sequence[tuple[ExperimentProgress, RequestJob]], *, share: Share
    ) -> Iterator[Event]:
        """Submit one step of several experiments as one job; if that is refused each gets its own."""
        step, resources = tasks[0][0].steps[0], tasks[0][1].resources
        try:
            for progress, request_job in tasks:
                if not progress.cleared:
                    request_job.clear_others()
                    progress.cleared = True
            each_s = self._sharing.expect_s(step)
            handles = submit_together(
                [request_job for _, request_job in tasks],
                each_s=SMALL_S if each_s is None else each_s,
                workers=share.workers,
                then=share.then,
            )
        except UnreachableError as error:
            self._trouble, self._silent_until = error.found, time.monotonic() + _RECONNECT_S
            return
        except RejectedError as error:
            self._sharing.refuse(step, resources=resources)
            log(f"{step}: no node for several at once ({error.found}); each gets a job of its own")
            return
        except Exception as error:  # noqa: BLE001 - as in `_drive`
            for progress, _ in tasks:
                yield from self._hand_on(progress, self._fail(progress, error))
            return
        self._trouble = ""
        for (progress, request_job), handle in zip(tasks, handles, strict=True):
            if handle is not None:
                progress.handle, progress.watch, progress.shared = handle, request_job.watch(handle), share.workers > 1
                if share.then and (pilot := handle.attempt.pilot) is not None:
                    self._chains[pilot.folder] = (request_job, handle)
        self._pilots.append([progress for progress, _ in tasks if progress.watch is not None])

    def _give_up_unplaceable(self) -> None:
        """Give up pilot jobs that would wait for ever, since no node has room for several at once."""
        for group in list(self._pilots):
            status = group[0].watch.status if group and group[0].watch is not None else None
            if status is None or (status.state and status.state != "PENDING"):
                self._pilots.remove(group)
            elif status.reason in _NEVER:
                self._pilots.remove(group)
                request_jobs = [progress.request_job for progress in group if progress.request_job is not None]
                self._sharing.refuse(group[0].steps[0], resources=request_jobs[0].resources)
                log(f"{group[0].steps[0]}: no node for several at once ({status.reason}); each gets a job of its own")
                for progress in group:
                    progress.forget_job()
                cancel_requests(request_jobs)

    def _settle_ended(self) -> Iterator[Event]:
        """Take in the results of jobs that have ended."""
        for progress in list(self._out.values()):
            if progress.watch is not None and progress.watch.ended.is_set():
                yield from self._hand_on(progress, self._settle(progress))

    def _hand_on(self, progress: ExperimentProgress, event: Event | None) -> Iterator[Event]:
        """Yield an event while its step is locked, then move the experiment on."""
        if event is None:
            return
        yield event
        progress.leave()
        self._out.pop(progress.experiment, None)
        if isinstance(event, StepFailed):
            progress.steps.clear()
        if not progress.steps:
            del self._under_way[progress.experiment]

    def _may_go(self, progress: ExperimentProgress) -> bool:
        now = time.monotonic()
        if progress.watch is not None or now < progress.not_before or not progress.steps:
            return False
        place = self._choose_place(progress)
        if not isinstance(place, SlurmExecutor):
            return True
        if progress.request_job is not None:
            return now >= self._silent_until
        return len(self._out) < place.settings.max_jobs

    def _choose_place(self, progress: ExperimentProgress) -> Executor:
        if progress.place is None:
            progress.place = self._executor_of(progress.steps[0], progress.experiment)
        return progress.place

    def _drive(self, progress: ExperimentProgress, *, submit: bool = True) -> Event | None:
        """Take the first step as far as it goes without waiting; None while nothing is decided."""
        try:
            event = self._begin(progress) if progress.request_job is None else None
            return self._submit(progress) if submit and event is None and progress.request_job is not None else event
        except BusyError as error:
            progress.rest(why=f"at work elsewhere ({error}), tried again later")
        except Exception as error:  # noqa: BLE001 - the other experiments go on; it is reported now and at the end
            return self._fail(progress, error)
        return None

    def _begin(self, progress: ExperimentProgress) -> Event | None:
        """Lock a step; find that nothing changed, run it here, or make its request job."""
        spec = self._workspace.pipeline.spec(progress.steps[0])
        force = spec.name in self._forced
        locked = progress.held.enter_context(
            lock_step(
                spec,
                workspace=self._workspace,
                experiment=progress.experiment,
                run_id=self._run_id,
                force=force,
                repeated=force and self._is_own(spec, experiment=progress.experiment),
                executor=self._choose_place(progress),
                on_wait=_refuse_to_wait,
            )
        )
        if locked.recalled is not None:
            return StepMade(progress.experiment, spec.name, locked.recalled, locked.recalled.record, recalled=True)
        if locked.cached is not None:
            return StepUpToDate(progress.experiment, spec.name, locked.cached)
        place = self._choose_place(progress)
        if isinstance(place, SlurmExecutor):
            progress.request_job = place.make_job(locked.request)
            self._out[progress.experiment] = progress
            return None
        return self._publish(progress, locked.run())

    def _is_own(self, spec: StepSpec, *, experiment: str) -> bool:
        """Whether an earlier process of this run has made a step; forced or not, it is made once."""
        primary = self._workspace.output(spec, experiment=experiment)
        record = read_record(self._workspace.layout, primary=primary)
        return record is not None and record.run_id == self._run_id

    def _submit(self, progress: ExperimentProgress) -> Event | None:
        """Submit a step's job, or take it over."""
        request_job = progress.request_job
        if request_job is None:
            raise RuntimeError("an experiment without a request job has nothing to submit")
        try:
            if not progress.cleared:
                request_job.clear_others()
                progress.cleared = True
            found = request_job.ensure(wait=False)
        except UnreachableError as error:
            self._trouble, self._silent_until = error.found, time.monotonic() + _RECONNECT_S
            return None
        except UndecidedError as error:
            progress.rest(why=f"{error.where}: waiting to know whether its job was submitted")
            return None
        self._trouble = ""
        if not isinstance(found, JobHandle):
            return self._publish(progress, request_job.take_done())
        progress.handle, progress.watch = found, request_job.watch(found)
        return None

    def _settle(self, progress: ExperimentProgress) -> Event | None:
        """Take the end of a job; None when another attempt follows."""
        request_job, handle, watch = progress.request_job, progress.handle, progress.watch
        try:
            if request_job is None or handle is None or watch is None or (verdict := watch.wait(0)) is None:
                raise RuntimeError("a job ended without a verdict")
            self._latest = watch.status
            done = request_job.settle(handle, verdict=verdict)
            if done is not None:
                return self._publish(progress, done)
        except Exception as error:  # noqa: BLE001 - as above
            return self._fail(progress, error)
        progress.handle, progress.watch, progress.shared = None, None, False
        return None

    def _publish(self, progress: ExperimentProgress, outcome: Executed | Committed) -> StepMade:
        """Commit what ran here, verify what a job committed."""
        layout = self._workspace.layout
        try:
            return StepMade(progress.experiment, progress.steps[0], outcome, finish(layout, outcome=outcome))
        finally:
            discard_unpublished(layout, outcome=outcome)

    def _fail(self, progress: ExperimentProgress, error: Exception) -> StepFailed:
        if isinstance(error, OSError):
            error = restore(report(error))
        recorded: BaseException = error
        if progress.request_job is not None:
            progress.request_job.cancel()
            recorded = progress.request_job.record_failure(error)
        step, *untried = progress.steps
        known = recorded if isinstance(recorded, Exception) else error
        return StepFailed(progress.experiment, step, known, tuple(untried))

    def _log_status(self) -> None:
        """Log how many jobs wait and run, where that has changed, and whether the cluster answers."""
        watches = [progress.watch for progress in self._out.values() if progress.watch is not None]
        statuses = [*[watch.status for watch in watches], self._latest]
        trouble = self._trouble or next((status.trouble for status in statuses[:-1] if status.trouble), "")
        # The files of a job may show its end while nobody answers: that is no answer.
        if trouble or any(status.answered_at is not None and not status.trouble for status in statuses):
            self._contact.update(trouble)
        self._latest = JobStatus()
        if not watches or time.monotonic() - self._summary[0] < _SUMMARY_S:
            return
        states = Counter(_describe(watch.status) for watch in watches)
        if states != self._summary[1]:
            log("jobs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
        self._summary = (time.monotonic(), states)


def _describe(status: JobStatus) -> str:
    return " ".join([status.state.lower() or "not known yet", *([f"({status.reason})"] if status.reason else [])])


def _refuse_to_wait(lock: StepLock) -> NoReturn:
    raise BusyError(lock)
