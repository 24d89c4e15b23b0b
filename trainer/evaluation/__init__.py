"""Evaluation of a bundle against labels, beside baselines without a learned network, and its reports."""
