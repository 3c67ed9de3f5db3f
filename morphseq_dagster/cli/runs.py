"""Runs that a verb starts: of each experiment by itself, or of all as one.

`choice.py` decides which way; a single run is `launch.py`, one run over many `bulk.py`. Both are imported only when
something has to run, because the import of Dagster takes time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from morphseq_dagster.cli.messages import group_lines
from morphseq_dagster.cli.options import Call

if TYPE_CHECKING:
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher

_NO_HISTORY = "DAGSTER_HOME is not set: the web page will not show these runs; the records will"


@contextmanager
def launching(call: Call, *, total: int) -> Iterator[tuple[Launcher, Display]]:
    """Open the Dagster instance and a display of so many steps."""
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, open_instance

    with open_instance() as (instance, lasting), Display(total=total) as display:
        if not lasting:
            display.say(_NO_HISTORY)
        yield Launcher(call, instance=instance), display


def run_chains(
    call: Call,
    chains: Mapping[str, Sequence[str]],
    *,
    bulk: bool,
    steps: Collection[str] = (),
    force: bool = False,
    automatic: bool = False,
) -> int:
    """Run experiments; return how many failed.

    Parameters
    ----------
    call
        Settings, workspace and pipeline.
    chains
        Experiment to the steps that are pending; experiments without any are printed as having nothing to do.
    bulk
        Whether all go as one run.
    steps
        The steps that were asked for, without those before them.
    force
        Compute these although nothing changed.
    automatic
        Leave alone what automation leaves to a person.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C or TERM ended it; the run is cancelled.
    """
    idle = [(experiment, ": nothing to do") for experiment, pending in chains.items() if not pending]
    for line in group_lines(idle, everything=call.verbose):
        print(line)
    chains = {experiment: pending for experiment, pending in chains.items() if pending}
    if not chains:
        return 0
    forced = [name for name in call.workspace.pipeline.step_names if force and name in steps]
    failures = 0
    with launching(call, total=sum(map(len, chains.values()))) as (launcher, display):
        if bulk:
            from morphseq_dagster.cli.bulk import run_bulk

            return run_bulk(call, launcher, display, chains=chains, steps=steps, force=force, automatic=automatic)
        for experiment, pending in chains.items():
            outcome = launcher.run(
                experiment, steps=pending, forced=[name for name in forced if name in pending], display=display
            )
            failures += bool(outcome.failed)
    return failures
