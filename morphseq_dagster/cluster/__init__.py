"""Slurm: runs steps as jobs of a cluster, at most one job per request at a time, whatever dies in between.

`executor.py` fulfils the engine's executor protocol for one run, `bulk_run.py` takes many experiments through their
steps in one process. Under both: `request_job.py` (one request and its job), `client.py` (submitting, verdicts,
cancelling), `poller.py` (watching), `commands.py` (sbatch, squeue, sacct, scancel) and `transports/` (ways to a login
node). Jobs that work on several requests are in `pilot/`, runs that wait without a process in `suspend/`. Nothing here
is imported before a setting names a cluster, or its jobs have left files below the data root.
"""
