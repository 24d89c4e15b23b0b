"""Checks that an engine or a decoder gives the scores of the reference."""
