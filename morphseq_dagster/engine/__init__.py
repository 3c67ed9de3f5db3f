"""What any workflow that makes files over partitions needs; it knows no fish, no Dagster and no scheduler."""
