"""Measurement of single embryos: shape, cleaned masks, orientation, aligned snips, viability.

Holds functions from masks and pictures to numbers and small pictures. Does not hold verdicts: which
measurement makes an embryo unusable is decided in `morphseq_dagster.quality`.
"""
