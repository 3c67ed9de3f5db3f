"""Members of packs: what the scheduler's word on an allocation means for one of the requests that it works on.

Holds judging by files. An allocation goes on while its members end one after the other, and ends while some of them
were never begun; what it says is right for those alone that it had in hand.
"""

from __future__ import annotations

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt
from morphseq_dagster.cluster.commands import Row, Sighting
from morphseq_dagster.cluster.outcome import Diagnosis, End, JobOutcome

_PLAIN = ("COMPLETED", "FAILED")
"""States of an allocation that say nothing of why a member was ended."""


def row_of_member(attempt: Attempt, *, job: str, end: End | None, row: Row | Sighting) -> Row | Sighting:
    """Say of a member what the scheduler would, had it a job of its own.

    Parameters
    ----------
    attempt
        The member.
    job
        Number of its allocation.
    end
        Its end record, written by this job.
    row
        What the scheduler says of the allocation.
    """
    wished_away = attempt.record("cancel") is not None
    if attempt.owner() == VOID:
        state = "CANCELLED" if wished_away else "FAILED"
    elif end is None:
        return row
    elif wished_away:
        state = "CANCELLED"
    elif end.signal == "TERM" and not (isinstance(row, Row) and row.state in _PLAIN):
        return row  # the allocation is on its way to an end, and will say which
    else:
        state = "FAILED" if end.code or end.signal else "COMPLETED"
    node = row.node if isinstance(row, Row) else ""
    return Row(job, attempt.token, state, node=node, exit_code=None if end is None else end.code)


def judge_untouched(attempt: Attempt, *, finding: Diagnosis) -> Diagnosis:
    """Judge a member whose allocation has ended: one that was never begun may be tried again, and no job gets it now.

    Who cancels an allocation wants none of it, hence its members are not tried again by themselves. Nor are those of an
    allocation whose own program could not start, and that came to none of them: it would not the next time.
    """
    if finding.outcome is JobOutcome.DONE or attempt.owner() not in (None, VOID) or not attempt.give_up():
        return finding
    why = f"never begun; its allocation ended: {', '.join(w for w in (finding.state, finding.reason) if w) or 'unseen'}"
    if attempt.record("cancel") is not None:
        return Diagnosis(JobOutcome.CANCELLED, finding.state, "cancelled before it began")
    if finding.outcome is JobOutcome.CANCELLED:
        return Diagnosis(JobOutcome.CANCELLED, finding.state, why)
    if finding.outcome in (JobOutcome.CONFIG, JobOutcome.FAILED) and not _has_begun_any(attempt):
        return Diagnosis(
            JobOutcome.CONFIG, finding.state, f"{finding.reason}: the program of the allocation did not start"
        )
    return Diagnosis(JobOutcome.VOID, finding.state, why)


def _has_begun_any(attempt: Attempt) -> bool:
    pack = attempt.pack
    return pack is not None and any(member.record("start") is not None for member in pack.members())


def is_wanted(pack: Attempt) -> bool:
    """Whether some member of a pack has neither a verdict nor been cancelled; yes when nobody knows its members."""
    members = pack.members()
    return not members or any(not m.is_closed and m.record("cancel") is None for m in reversed(members))
