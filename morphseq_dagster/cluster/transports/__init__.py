"""Ways to the host where the commands of the scheduler are run."""
