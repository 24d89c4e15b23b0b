"""The default video model; ``model`` is the place to start reading."""
