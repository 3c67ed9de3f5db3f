"""The planner: the state of every artifact by its record, which steps would run, and why.

`facts.py` reads, `rules.py` judges, `plan.py` does both for many experiments; `snapshot.py` and `status.py` show the
result. Nothing is written but what a person decides: `reconcile_actions.py` and `retirement.py`.
"""
