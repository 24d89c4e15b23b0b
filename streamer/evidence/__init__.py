"""Pictures and clips of events, and what the cameras show now: ``oddsight-stream evidence``."""
