"""Settings of this machine: where the data lie and where steps run; never anything that changes a result."""
