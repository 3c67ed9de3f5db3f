"""Pilot jobs: one job of the cluster that works on several requests - many experiments, several steps of one, or both.

`sharing.py` chooses what shares a job, `job.py` submits it, `agent.py` is its program on the node, `chaining.py` begins
the next steps there, and `task.py` judges one request by the state of the whole job. `docs/pilot-jobs.md` is its page
for users.
"""
