"""Backends that run a bundle, one file each: the only files that import a backend for serving."""
