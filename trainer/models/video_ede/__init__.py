"""The default video model."""
