"""Stands in for anomalib: what the benchmark uses of it, as talkative as the original."""

__version__ = "9.9"

print("loading anomalib")  # noqa: T201  the original talks to standard output
