"""`python -m morphseq_dagster.cli`: the command line where its console script is not on the path."""

from __future__ import annotations

import sys

from morphseq_dagster.cli import main

sys.exit(main())
