"""Ways to the host where the scheduler's commands are run: this one (`local.py`) or a login node (`ssh.py`)."""
