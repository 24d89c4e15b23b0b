"""Seconds until a restarted service has all its cameras on watch: after SIGTERM, and after SIGKILL; prints one JSON object.

python tests/bench/restart.py [CAMERAS] [FRAMES]

The cameras show the test clips of Ped2. Kafka is the one that KAFKA_HOME names, else the embedded one.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from streamer.chaos.servers import ApacheBroker, EmbeddedBroker, EmbeddedRedis
from streamer.config import KafkaSettings, RedisSettings
from tests.harness.replay import Cameras, ped2_cameras, produce
from tests.harness.service import Results, Service, running

SINCE_SNAPSHOT = 11
"""Frames of each camera between the two restarts."""


class Restarts:
    """A service with cameras in a folder of its own."""

    def __init__(self, folder: Path, kafka: KafkaSettings, redis: RedisSettings, cameras: Cameras) -> None:
        limits = {"max_frame_age_s": 86_400}
        self.service, self._results = Service(folder, kafka, redis, limits=limits), Results(redis)
        self._kafka, self._cameras, self._sent = kafka, cameras, 0

    def send(self, first: int, last: int) -> None:
        """Have the service score the cameras' frames ``first`` to ``last``."""
        self._sent += produce(self._kafka, self._cameras, first, last)
        self.service.wait_until(lambda: self._results.next_offsets() >= self._sent, "end of the frames", timeout_s=3_600)

    def restart(self, end: Callable[[], object]) -> dict[str, float]:
        """End the service and start it again: seconds and CPU seconds until it is ready, and replayed frames."""
        end()
        begin_s = time.monotonic()
        self.service.start()
        self.service.wait_until(lambda: self.service.get("/readyz")[0] == 200, "ready service", timeout_s=3_600)
        seconds, process = time.monotonic() - begin_s, self.service.process
        assert process is not None
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        replayed = re.search(r"^oddsight_replayed_frames_total (\S+)$", self.service.get("/metrics")[1], re.MULTILINE)
        assert replayed is not None
        cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return {"seconds": round(seconds, 1), "cpu_s": round(cpu_s, 1), "replayed": float(replayed[1])}


def turned(clips: Cameras, count: int, frames: int) -> Cameras:
    """So many cameras, each of which begins its clip at another frame."""
    pictures = list(clips.values())
    return {f"camera-{n:03d}": [pictures[n % len(pictures)][(n + i) % 120] for i in range(frames)] for n in range(count)}


def main() -> None:
    """Measure and print."""
    count, frames = (int(text) for text in [*sys.argv[1:], *("200", "70")[len(sys.argv) - 1 :]])
    home = os.environ.get("KAFKA_HOME")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker, redis = ApacheBroker(Path(home), folder) if home else EmbeddedBroker(folder), EmbeddedRedis(folder)
        try:
            broker.start()
            redis.start()
            # With a name, a killed process gets its partitions back at once, and not when its session has ended.
            kafka = KafkaSettings(bootstrap_servers=str(broker.address), start="earliest", group_instance_id="only")
            cameras = turned(ped2_cameras(), count, frames + SINCE_SNAPSHOT)
            restarts = Restarts(folder, kafka, RedisSettings(url=redis.url), cameras)
            with running(restarts.service):
                restarts.send(0, frames)
                found = {"SIGTERM": restarts.restart(restarts.service.stop)}
                restarts.send(frames, frames + SINCE_SNAPSHOT)
                found["SIGKILL"] = restarts.restart(restarts.service.kill)
        finally:
            for server in (broker, redis):
                server.kill()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
