"""Errors of the scheduler's side: no answer, not known yet, refused.

A job that ran and failed is no exception but a verdict (`outcome.py`).
"""

from __future__ import annotations

from morphseq_dagster.errors import PermanentError, TransientError


class UnreachableError(TransientError):
    """No answer from the scheduler, the accounting or the login node. It proves nothing about any job."""


class UndecidedError(TransientError):
    """Whether a job was submitted is not known yet: ask again later. Only callers who do not wait get this."""


class RejectedError(PermanentError):
    """The scheduler refused the job."""
