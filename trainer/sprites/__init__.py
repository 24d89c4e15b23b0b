"""Pseudo-anomalies: moving things cut out of normal footage and pasted back so that they are no longer normal."""
