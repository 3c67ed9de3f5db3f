"""Storage: the only writer below the data root.

`durable` writes and renames so that a crash leaves the old or the new; `staging` prepares what a step made; `commit`
publishes it with its record; `records`, `claims`, `checkpoints` and `sweep` keep account. Knows nothing of science or
Dagster.
"""
