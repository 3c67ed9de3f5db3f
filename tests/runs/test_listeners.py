"""Listeners: everyone inside the block gets each event once, in order, and nobody afterwards."""

from __future__ import annotations

from morphseq_dagster.runs.listeners import announce, listening


def test_events_reach_every_listener_of_the_block_in_order_and_none_after_it() -> None:
    outer: list[object] = []
    inner: list[object] = []
    announce("before")
    with listening(outer.append):
        announce(1)
        with listening(inner.append):
            announce(2)
        announce(3)
    announce("after")
    assert (outer, inner) == ([1, 2, 3], [2])
