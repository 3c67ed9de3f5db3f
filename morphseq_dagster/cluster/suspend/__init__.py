"""Suspended runs: a run gives up its process while a job of the cluster works for it, and a new process resumes it.

`launcher.py` and `run_queue.py` are Dagster's run launcher and run queue, chosen in dagster.yaml; `worker.py` is the
side of the run's own process. They share `state.py`; `monitor.py` asks the cluster about all awaited jobs at once.
`docs/suspended-runs.md` is the page for users.
"""
