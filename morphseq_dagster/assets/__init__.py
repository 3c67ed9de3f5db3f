"""Assets: one per step of the pipeline, made by one small factory; the cohort is the only one written by hand."""
