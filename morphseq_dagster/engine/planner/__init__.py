"""Lineage: what the records say - the state of every artifact, and which steps would run and why.

Reads records, failures, claims and journals and needs no Dagster. Only `mending`, `retirement` and `adopt` write, when
a person says so.
"""
