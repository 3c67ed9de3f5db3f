"""The command line `morphseq`: one module per verb, and nothing heavy is imported before a verb needs it.

The list of verbs is in `app.py`, the options that they share in `options.py`.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or TERM ended, as shells expect it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 something failed, 2 the command is wrong, or 130."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str] | None) -> int:
    from morphseq_dagster.cli.signals import heed_termination

    if arguments is None:  # else it is called from a process of others
        heed_termination()
        arguments = sys.argv[1:]
    from morphseq_dagster.cli.app import app
    from morphseq_dagster.cli.messages import print_error, wants_trace
    from morphseq_dagster.errors import MorphseqError

    try:
        app(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except (MorphseqError, OSError) as error:
        if wants_trace(arguments):
            raise
        print_error(error)
        return 1
    return 0
