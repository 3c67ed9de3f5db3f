"""Runs that give up their process while a job of the cluster works for them."""
