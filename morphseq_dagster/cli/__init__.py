"""The command line `morphseq`: one module per verb, nothing heavy imported before a verb needs it."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 something failed, 2 wrongly asked."""
    from morphseq_dagster.cli.app import app
    from morphseq_dagster.cli.messages import print_error, wants_trace
    from morphseq_dagster.cli.signals import heed_termination
    from morphseq_dagster.errors import MorphseqError

    if arguments is None:  # else it is called from a process of others
        heed_termination()
        arguments = sys.argv[1:]
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
