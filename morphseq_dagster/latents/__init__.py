"""Embeddings of aligned snips: the interface, the weight-free default and the choice of a backend.

Does not hold the making of snips nor the writing of tables.
"""
