"""The networks: one readable file a model, shared parts in ``blocks``."""
