"""What TERM and Ctrl-C do to a command: they end it, with exit code 130.

How the run of such a command is cancelled is `runs/interruption.py`.
"""

from __future__ import annotations

import signal


def heed_termination() -> None:
    """Let TERM end this process as Ctrl-C does; Ctrl-C stays ignored where it was ignored before.

    A script starts what it puts into the background with Ctrl-C ignored, so that a Ctrl-C for the script spares it.
    Dagster gives both signals one meaning, by turns its own and the inherited one of Ctrl-C: TERM would be ignored
    between two runs, and Ctrl-C heeded in a step. Hence Ctrl-C gets its usual meaning, and is held back before it
    arrives.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
