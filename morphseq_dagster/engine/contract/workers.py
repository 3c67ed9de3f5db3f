"""Workers: what a step may use to compute its wells in other processes.

An executor gives them to the step with its context (`context.py`), and `map_wells` (`wells.py`) uses them. Those of
this machine are the pool in `engine/executors/pool.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Processes that compute items one by one."""

    def map(
        self, begin: Callable[[], Callable[[Item], Result]], items: Mapping[str, Item]
    ) -> Iterator[tuple[str, Result]]:
        """Compute every item; yield its name and its result as soon as it is known, in no fixed order.

        Parameters
        ----------
        begin
            Picklable; called once in every worker. What it returns computes one item.
        items
            Picklable items by name, in the order in which they are begun.
        """
        ...
