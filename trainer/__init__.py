"""Footage in, a trained, evaluated and calibrated bundle out."""
