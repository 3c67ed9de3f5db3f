"""Places: where a step runs - in this process, in a subprocess, later on a cluster - and the runner that they share.

Holds the way of one step from claim to commit. Knows nothing of Dagster or of what the steps compute.
"""
