"""Dagster runs seen from outside: how one stands, and how one that a signal ends is cancelled."""
