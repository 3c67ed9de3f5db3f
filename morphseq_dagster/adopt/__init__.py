"""Adopt: bring trees that other programs left into the data root's records, without computing anything anew.

Holds readers tolerant of every form the lab has used, a splitter for files that hold all experiments, and the
registration with full provenance. Writes our form only; a step never falls back to what lies here.
"""
