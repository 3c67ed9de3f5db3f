"""Verdicts on masks and embryos: tri-state flags with reasons, death, outliers, staging, usability.

Pixels are measured in `morphseq_dagster.morphometry`, but for distances between masks.
"""
