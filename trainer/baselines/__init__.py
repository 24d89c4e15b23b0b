"""Detectors that learn no network."""
