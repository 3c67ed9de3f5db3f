"""Launchers: Dagster runs that leave no process behind while a cluster works for them."""
