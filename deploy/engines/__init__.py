"""Engines that score the clips of a bundle, one backend in each file."""
