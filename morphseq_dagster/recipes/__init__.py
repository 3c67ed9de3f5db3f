"""Recipes: the science's parameters, typed, one slice per step, resolved per lab and per experiment."""
