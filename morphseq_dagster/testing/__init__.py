"""What authors of steps and of other workflows need for their tests: a toy, a second workflow, a bench for one step.

`training.py` is the documented example of a workflow. `relay.py` and `sequel.py` run on the nodes of clusters, and so
have to be installed there.
"""
