"""Storage: the only writer below the data root.

`atomic_io.py` writes and renames so that a crash leaves the old or the new; `staging.py` prepares what a step made, and
`commit.py` publishes it with its record (`records.py`). `step_locks.py` keeps two processes off one step, and
`sweep.py` clears up after a crash.
"""
