"""Slurm: a job is a command, a folder, a key and resources; at most one execution per key, whatever dies in between.

Holds a client of the scheduler on the standard library. Knows nothing of Dagster, of the steps or of what a job
computes: whether a request is done is asked of a function that the caller gives.
"""
