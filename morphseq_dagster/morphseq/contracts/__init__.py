"""Contracts: one module per artifact with its columns or document model, checked before every commit.

Paths and status columns of artifacts are in `morphseq/artifacts.py`.
"""
