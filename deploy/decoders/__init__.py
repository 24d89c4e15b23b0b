"""Decoders of JPEG and PNG images."""
