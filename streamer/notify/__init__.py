"""Tells people of events and of problems with cameras, outside the terminal."""
