"""Errors of the scheduler's side: no contact, and a job that the scheduler would not take.

Holds the classes only. A job that ran and failed is no exception here but a verdict (`outcome`).
"""

from __future__ import annotations

from morphseq_dagster.errors import PermanentError, TransientError


class UnreachableError(TransientError):
    """No answer: the scheduler, the accounting or the login node could not be asked. Proves nothing about any job."""


class UndecidedError(TransientError):
    """Whether a submission came through is not known yet: ask again later. Only for callers who do not wait."""


class RejectedError(PermanentError):
    """The scheduler answered that it does not take the job."""
