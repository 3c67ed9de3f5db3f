"""IO managers: how Dagster commits what a step staged and hands on what lies on the disk."""
