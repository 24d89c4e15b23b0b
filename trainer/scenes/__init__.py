"""Rendered scenes: generated footage of fixed cameras with ground truth, to train and to measure on without anybody's data."""
