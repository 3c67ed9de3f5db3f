"""Where a step runs: this process, a process of its own, a pool of workers for its wells."""
