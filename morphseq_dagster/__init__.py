"""MorphSeq as a Dagster asset graph in which the experiment is the unit.

It has the version only; nothing is imported here so that `morphseq status` starts fast.
"""

__version__ = "0.1.0"
