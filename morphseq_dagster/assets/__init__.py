"""Assets: one per step of the pipeline, and one for the cohort; all are made in `factory.py`."""
