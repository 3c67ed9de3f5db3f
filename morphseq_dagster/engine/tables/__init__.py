"""Contracts of tables, documents and image sets, and the check of a file against its contract."""
