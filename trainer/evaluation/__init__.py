"""Evaluation of a bundle against labels, and its reports."""
