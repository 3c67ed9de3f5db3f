"""Verdicts on masks and embryos: tri-state flags with reasons, death, outliers, staging, usability.

Holds rules and their named parameters. Does not hold measurements of pixels beyond distances between
masks; those are made in `morphseq_dagster.morphometry`.
"""
