"""The training loop, its callbacks and its progress."""
