"""The MorphSeq workflow: artifacts, parameters and steps, as the one pipeline that the engine runs."""
