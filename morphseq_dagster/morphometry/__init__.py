"""Measurement of single embryos: shape, cleaned masks, orientation, aligned snips, viability.

Which measurement makes an embryo unusable is decided in `morphseq_dagster.quality`.
"""
