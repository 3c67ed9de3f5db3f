"""Campaigns: many experiments at once in one process, each on its own way through its steps.

Holds the loop: who may begin a step now, which jobs have ended, what stops where. A step at the cluster is an errand
that is watched beside all others; a step of this machine runs right here, one after the other (so no two share a
GPU), and what ended meanwhile is looked at between two of them. Nothing waits for anything else: a failed step ends its
own experiment's way, a step that is at work elsewhere is tried again later. Knows no Dagster.
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

from morphseq_dagster.cluster.connection import Contact, say
from morphseq_dagster.cluster.errors import RejectedError, UndecidedError, UnreachableError
from morphseq_dagster.cluster.events import Event, StepFailed, StepMade, StepUpToDate
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import BusyError, ExperimentProgress
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.pilot.next_step import can_follow
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
"""Reasons of waiting for what the cluster does not have."""


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
        self._lanes = {name: ExperimentProgress(name, deque(steps)) for name, steps in chains.items() if steps}
        self._out: dict[str, ExperimentProgress] = {}  # those with an errand; the order is that of submission
        self._packing = Sharing(workspace)
        self._weighed: set[tuple[str, str]] = set()  # experiments and steps that may have a job of their own
        self._packs: list[list[ExperimentProgress]] = []
        self._chains: dict[Path, tuple[RequestJob, JobHandle]] = {}  # by the folder of the pack that each is
        self._contact = Contact()
        self._unheard = ""
        self._latest = JobStatus()  # of the job that ended last
        self._silent_until = 0.0
        self._summary: tuple[float, Counter[str]] = (time.monotonic(), Counter())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel all jobs that are at work, in one call, and release every claim."""
        with ExitStack() as ending:
            for lane in self._lanes.values():
                ending.callback(lane.end, error or RuntimeError("the campaign was left"))
            errands = [errand for lane in self._lanes.values() if (errand := lane.errand) is not None]
            cancel_requests(errands, chains=list(self._chains.values()))
        self._lanes.clear()
        self._out.clear()

    def items(self) -> Iterator[Event]:
        """Walk every experiment's way to its end; yield what was made, stands or failed as it happens.

        Lost contact is waited out. A failure is an item, no exception; whatever is raised here concerns all.
        """
        while self._lanes:
            yield from self._settle_ended()
            self._tell_status()
            self._take_packs_apart()
            yield from self._share_ready()
            moved = False
            here: ExperimentProgress | None = None
            for lane in list(self._lanes.values()):
                if not self._may_go(lane):
                    continue
                if not isinstance(self._choose_place(lane), SlurmExecutor):
                    here = here or lane
                    continue
                if (lane.experiment, lane.steps[0]) not in self._weighed:
                    continue  # it waits for others, or came to this step just now and is asked about sharing first
                moved = True
                yield from self._hand_on(lane, self._drive(lane))
                yield from self._settle_ended()
            if here is not None:
                yield from self._hand_on(here, self._drive(here))
            elif not moved:
                time.sleep(_TICK_S)

    def _share_ready(self) -> Iterator[Event]:
        """Submit as one job what shall share one; the others are left as they are."""
        ready = {
            lane.experiment: lane
            for lane in self._lanes.values()
            if self._may_go(lane) and isinstance(self._choose_place(lane), SlurmExecutor)
        }
        packed = [lane for lane in self._out.values() if lane.packed]
        choice = self._packing.choose(
            [self._describe(lane) for lane in ready.values()],
            coming=Counter(step for lane in packed for step in islice(lane.steps, 1, None)),
            at_work=Counter(lane.steps[0] for lane in packed),
        )
        self._weighed = {(lane.experiment, lane.steps[0]) for lane in ready.values()} - {
            (name, ready[name].steps[0]) for name in choice.awaiting
        }
        for share in choice.shares:
            together = []
            for lane in [ready[name] for name in share.experiments]:
                if lane.errand is None and len(self._out) >= share.settings.max_jobs:
                    break
                yield from self._hand_on(lane, self._drive(lane, submit=False))
                if lane.errand is not None and lane.errand.is_fresh():
                    together.append((lane, lane.errand))
            for alike in sort_alike([errand.resources for _, errand in together]):
                members = [together[number] for number in alike]
                # An attempt after a failure may ask for more: it goes alone, unless there are many of them.
                goes_on = bool(share.then) and members[0][1].resources == share.resources
                if goes_on or (share.workers > 1 and len(alike) > share.settings.pack_above):
                    yield from self._submit_together(members, share=share)

    def _describe(self, lane: ExperimentProgress) -> Ready:
        """Tell which of the steps to go one job could make, from the first one on."""
        place = self._choose_place(lane)
        if not isinstance(place, SlurmExecutor):
            raise TypeError("only steps at the cluster share a job")
        if lane.ahead is None:
            first, *others = lane.steps
            # What is forced is asked for singly: a job that goes on computes what is not up to date.
            others = others if place.settings.chain and first not in self._forced else []
            lane.ahead = (first, *takewhile(lambda step: self._goes_on(lane, step, place=place), others))
        return Ready(lane.experiment, lane.ahead, place, again=lane.errand is not None)

    def _goes_on(self, lane: ExperimentProgress, step: str, *, place: SlurmExecutor) -> bool:
        there = self._executor_of(step, lane.experiment)
        if step in self._forced or not isinstance(there, SlurmExecutor) or there.settings != place.settings:
            return False
        try:
            return can_follow(self._workspace, step=step, experiment=lane.experiment)
        except MorphseqError:
            return False  # the step says it itself, when it is its turn

    def _submit_together(
        self, members: Sequence[tuple[ExperimentProgress, RequestJob]], *, share: Share
    ) -> Iterator[Event]:
        """Submit one step of several experiments as one job; where that cannot be each goes on alone."""
        step, resources = members[0][0].steps[0], members[0][1].resources
        try:
            for lane, errand in members:
                if not lane.cleared:
                    errand.clear_others()
                    lane.cleared = True
            each_s = self._packing.expect_s(step)
            lives = submit_together(
                [errand for _, errand in members],
                each_s=SMALL_S if each_s is None else each_s,
                workers=share.workers,
                then=share.then,
            )
        except UnreachableError as error:
            self._unheard, self._silent_until = error.found, time.monotonic() + _RECONNECT_S
            return
        except RejectedError as error:
            self._packing.refuse(step, resources=resources)
            say(f"{step}: no node for several at once ({error.found}); each gets a job of its own")
            return
        except Exception as error:  # noqa: BLE001 - as in `_drive`
            for lane, _ in members:
                yield from self._hand_on(lane, self._fail(lane, error))
            return
        self._unheard = ""
        for (lane, errand), live in zip(members, lives, strict=True):
            if live is not None:
                lane.live, lane.watch, lane.packed = live, errand.watch(live), share.workers > 1
                if share.then and (pack := live.attempt.pack) is not None:
                    self._chains[pack.folder] = (errand, live)
        self._packs.append([lane for lane, _ in members if lane.watch is not None])

    def _take_packs_apart(self) -> None:
        """Give an allocation up that would wait for ever, since no node has room for several at once."""
        for lanes in list(self._packs):
            status = lanes[0].watch.status if lanes and lanes[0].watch is not None else None
            if status is None or (status.state and status.state != "PENDING"):
                self._packs.remove(lanes)
            elif status.reason in _NEVER:
                self._packs.remove(lanes)
                errands = [lane.errand for lane in lanes if lane.errand is not None]
                self._packing.refuse(lanes[0].steps[0], resources=errands[0].resources)
                say(f"{lanes[0].steps[0]}: no node for several at once ({status.reason}); each gets a job of its own")
                for lane in lanes:
                    if lane.errand is not None and lane.watch is not None:
                        lane.errand.forget(lane.watch)
                        lane.live = lane.watch = None
                cancel_requests(errands)

    def _settle_ended(self) -> Iterator[Event]:
        """Take in the results of jobs that have ended."""
        for lane in list(self._out.values()):
            if lane.watch is not None and lane.watch.ended.is_set():
                yield from self._hand_on(lane, self._settle(lane))

    def _hand_on(self, lane: ExperimentProgress, item: Event | None) -> Iterator[Event]:
        """Yield an item inside its claim, then move the lane on."""
        if item is None:
            return
        yield item
        lane.leave()
        self._out.pop(lane.experiment, None)
        if isinstance(item, StepFailed):
            lane.steps.clear()
        if not lane.steps:
            del self._lanes[lane.experiment]

    def _may_go(self, lane: ExperimentProgress) -> bool:
        now = time.monotonic()
        if lane.watch is not None or now < lane.not_before or not lane.steps:
            return False
        place = self._choose_place(lane)
        if not isinstance(place, SlurmExecutor):
            return True
        if lane.errand is not None:
            return now >= self._silent_until
        return len(self._out) < place.max_jobs

    def _choose_place(self, lane: ExperimentProgress) -> Executor:
        if lane.place is None:
            lane.place = self._executor_of(lane.steps[0], lane.experiment)
        return lane.place

    def _drive(self, lane: ExperimentProgress, *, submit: bool = True) -> Event | None:
        """Take the first step as far as it goes without waiting; None while there is nothing to tell."""
        try:
            item = self._begin(lane) if lane.errand is None else None
            return self._submit(lane) if submit and item is None and lane.errand is not None else item
        except BusyError as error:
            lane.rest(told=f"at work elsewhere ({error}), tried again later")
        except Exception as error:  # noqa: BLE001 - the other experiments go on; it is told at once and at the end
            return self._fail(lane, error)
        return None

    def _begin(self, lane: ExperimentProgress) -> Event | None:
        """Claim a step; find that nothing changed, run it here, or make its errand."""
        spec = self._workspace.pipeline.spec(lane.steps[0])
        force = spec.name in self._forced
        session = lane.held.enter_context(
            lock_step(
                spec,
                workspace=self._workspace,
                experiment=lane.experiment,
                run_id=self._run_id,
                force=force,
                repeated=force and self._is_own(spec, experiment=lane.experiment),
                executor=self._choose_place(lane),
                on_wait=_refuse_to_wait,
            )
        )
        if session.recalled is not None:
            return StepMade(lane.experiment, spec.name, session.recalled, session.recalled.record, recalled=True)
        if session.cached is not None:
            return StepUpToDate(lane.experiment, spec.name, session.cached)
        place = self._choose_place(lane)
        if isinstance(place, SlurmExecutor):
            lane.errand = place.errand(session.request)
            self._out[lane.experiment] = lane
            return None
        return self._publish(lane, session.run())

    def _is_own(self, spec: StepSpec, *, experiment: str) -> bool:
        """Whether an earlier process of this run has made a step; forced or not, it is made once."""
        primary = self._workspace.output(spec, experiment=experiment)
        record = read_record(self._workspace.layout, primary=primary)
        return record is not None and record.run_id == self._run_id

    def _submit(self, lane: ExperimentProgress) -> Event | None:
        """Submit a step's job, or take it over."""
        errand = lane.errand
        if errand is None:
            raise RuntimeError("a lane without an errand has nothing to submit")
        try:
            if not lane.cleared:
                errand.clear_others()
                lane.cleared = True
            found = errand.ensure(wait=False)
        except UnreachableError as error:
            self._unheard, self._silent_until = error.found, time.monotonic() + _RECONNECT_S
            return None
        except UndecidedError as error:
            lane.rest(told=f"{error.where}: waiting to know whether its job was submitted")
            return None
        self._unheard = ""
        if not isinstance(found, JobHandle):
            return self._publish(lane, errand.take_done())
        lane.live, lane.watch = found, errand.watch(found)
        return None

    def _settle(self, lane: ExperimentProgress) -> Event | None:
        """Say what a job's end means; None when another attempt follows."""
        errand, live, watch = lane.errand, lane.live, lane.watch
        try:
            if errand is None or live is None or watch is None or (verdict := watch.wait(0)) is None:
                raise RuntimeError("a job ended without a verdict")
            self._latest = watch.status
            done = errand.settle(live, verdict=verdict)
            if done is not None:
                return self._publish(lane, done)
        except Exception as error:  # noqa: BLE001 - as above
            return self._fail(lane, error)
        lane.live, lane.watch, lane.packed = None, None, False
        return None

    def _publish(self, lane: ExperimentProgress, outcome: Executed | Committed) -> StepMade:
        """Commit what ran here, verify what a job committed."""
        layout = self._workspace.layout
        try:
            return StepMade(lane.experiment, lane.steps[0], outcome, finish(layout, outcome=outcome))
        finally:
            discard_unpublished(layout, outcome=outcome)

    def _fail(self, lane: ExperimentProgress, error: Exception) -> StepFailed:
        if isinstance(error, OSError):
            error = restore(report(error))
        told: BaseException = error
        if lane.errand is not None:
            lane.errand.cancel()
            told = lane.errand.record_failure(error)
        step, *untried = lane.steps
        return StepFailed(lane.experiment, step, told if isinstance(told, Exception) else error, tuple(untried))

    def _tell_status(self) -> None:
        """Say how many jobs wait and run, where that is news, and whether the cluster answers."""
        watches = [lane.watch for lane in self._out.values() if lane.watch is not None]
        statuses = [*[watch.status for watch in watches], self._latest]
        trouble = self._unheard or next((status.trouble for status in statuses[:-1] if status.trouble), "")
        # A job may end by its files while nobody answers: that it is gone is no answer.
        if trouble or any(status.answered_at is not None and not status.trouble for status in statuses):
            self._contact.tell(trouble)
        self._latest = JobStatus()
        if not watches or time.monotonic() - self._summary[0] < _SUMMARY_S:
            return
        states = Counter(_describe(watch.status) for watch in watches)
        if states != self._summary[1]:
            say("jobs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
        self._summary = (time.monotonic(), states)


def _describe(status: JobStatus) -> str:
    return " ".join([status.state.lower() or "not known yet", *([f"({status.reason})"] if status.reason else [])])


def _refuse_to_wait(claim: StepLock) -> NoReturn:
    raise BusyError(claim)
