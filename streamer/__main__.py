"""``python -m streamer`` is ``oddsight-stream``."""

from streamer.cli import main

main()
