"""Pseudo-anomalies: objects cut out of normal footage and pasted back so that they are no longer normal."""
