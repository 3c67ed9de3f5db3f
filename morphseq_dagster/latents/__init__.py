"""Embeddings of aligned snips: the interface, the weight-free default and the choice of a backend."""
