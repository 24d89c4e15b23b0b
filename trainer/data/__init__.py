"""Footage, labels, masks and annotations on disk."""
