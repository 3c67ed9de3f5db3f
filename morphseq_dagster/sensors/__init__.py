"""Sensors: what Dagster's daemon looks at by itself; all of them are off until somebody switches them on."""
