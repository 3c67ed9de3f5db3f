"""Lineage: what the records say - the state of every artifact, and which steps would run and why.

Reads records, failures, claims and journals; writes nothing and needs no Dagster.
"""
