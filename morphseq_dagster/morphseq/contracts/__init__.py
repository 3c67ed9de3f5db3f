"""Contracts: one module per artifact with its columns or document model, checked before every commit.

Holds no paths, no reading of other artifacts and no science.
"""
