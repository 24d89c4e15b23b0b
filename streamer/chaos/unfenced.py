"""The service without the fence of its step, which ``oddsight-stream chaos --self-check`` runs to see that doublings are noticed.

python -m streamer.chaos.unfenced CONFIG_FILE
"""

import signal
import sys
import threading
from pathlib import Path

from streamer.monitoring import configure_logs
from streamer.redis.script import STEP
from streamer.service import run_service
from streamer.settings_file import load_settings

FENCE = "if stored ~= ARGV[2] then return {'fenced', stored} end\n"
"""The line of the script that refuses the step of a consumer that another one has overtaken."""


def main() -> None:
    """Run until SIGTERM."""
    configure_logs()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_service(load_settings(Path(sys.argv[1])), stop, STEP.replace(FENCE, ""))


if __name__ == "__main__":
    main()
