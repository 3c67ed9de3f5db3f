"""The contract of a step: its request, its result, its parameters, and what its body works with."""
