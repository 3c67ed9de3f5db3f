"""Steps: the pipeline and one module per step; a step reads inputs, calls one science function and stages the result.

Knows science and storage; knows nothing of Dagster or of where it runs.
"""
