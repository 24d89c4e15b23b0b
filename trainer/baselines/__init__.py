"""Anomaly detectors without a learned network, as a yardstick for the models."""
