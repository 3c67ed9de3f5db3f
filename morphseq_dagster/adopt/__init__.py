"""Adopt: bring trees that other programs left into the data root's records, without computing anything anew.

Readers accept every form that the lab has used, a splitter cuts files that hold all experiments, and results are
registered with full provenance in our form. A step never falls back to what lies here.
"""
