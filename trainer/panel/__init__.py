"""``oddsight-train panel``: one recipe on many scenes, and faults made by a script."""
