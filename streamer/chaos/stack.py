"""The throw-away stack: Kafka, Redis, replicas of the service and synthetic cameras, all in one temporary folder."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from streamer.chaos.servers import ApacheBroker, EmbeddedBroker, EmbeddedRedis, Server, free_address
from streamer.chaos.traffic import CAMERAS, FPS, PARTITIONS, Traffic
from streamer.config import BatchSettings, HttpSettings, Settings
from streamer.kafka.client import ensure_topics, open_admin
from streamer.redis.client import make_redis
from streamer.settings_file import settings_toml

BUNDLE = Path(__file__).parent / "bundle"
"""Made by tools/make_chaos_bundle.py."""
SESSION_TIMEOUT_S = 2.0
REPLICAS = 2

_RESTART_EVERY_S = 1.0

Program = Literal["streamer.cli", "streamer.chaos.unfenced"]


class Replica(Server):
    """A process of the service."""

    http_port: int


class Stack:
    """All parts, running. ``program`` is the module that a replica runs; ``fps``: of each camera."""

    def __init__(
        self,
        folder: Path,
        kafka_home: Path | None,
        program: Program,
        cameras: Mapping[str, int] = CAMERAS,
        fps: float = FPS,
    ) -> None:
        self._folder, self._program, self._cameras, self._fps = folder, program, cameras, fps
        self.broker = EmbeddedBroker(folder) if kafka_home is None else ApacheBroker(kafka_home, folder)
        self.redis = EmbeddedRedis(folder)
        self.settings = stack_settings(str(self.broker.address), self.redis.url)
        if program == "streamer.chaos.unfenced":  # so that a replica has always something in hand when it is stopped
            self.settings = self.settings.model_copy(update={"batch": BatchSettings(max_wait_ms=500)})
        self.partitions = PARTITIONS
        self.replicas: list[Replica] = []
        self._made, self._restart_at_s = 0, 0.0

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """Start everything; kill everything when the block ends."""
        try:
            self.broker.start()
            self.redis.start()
            ensure_topics(self.settings.kafka, PARTITIONS)
            self.traffic = Traffic(self.settings.kafka, self._cameras, self._fps)
            try:
                self.traffic.start()
                self.replicas = [self.make_replica() for _ in range(REPLICAS)]
                for replica in self.replicas:
                    replica.start()
                yield self
            finally:
                self.traffic.close()
        finally:
            for server in (*self.replicas, self.redis, self.broker):
                server.kill()

    def make_replica(self) -> Replica:
        """One more replica, not started; whoever made it must kill it."""
        self._made += 1
        config_path = self._folder / f"oddsight-{self._made}.toml"
        http = HttpSettings(port=free_address().port)
        config_path.write_text(settings_toml(self.settings.model_copy(update={"http": http})))
        options = ["run", "--config", str(config_path)] if self._program == "streamer.cli" else [str(config_path)]
        command = [sys.executable, "-m", self._program, *options]
        replica = Replica(f"replica {self._made}", command, self._folder / f"replica-{self._made}.log")
        replica.http_port = http.port
        return replica

    def tend(self) -> None:
        """Start replicas that have ended by themselves, as a supervisor does it: without Kafka or Redis none can start."""
        if time.monotonic() < self._restart_at_s:
            return
        self._restart_at_s = time.monotonic() + _RESTART_EVERY_S
        for replica in self.replicas:
            if not replica.running:
                replica.start()

    def redis_command(self, *words: str | int) -> None:
        """Send Redis a command."""
        with make_redis(self.settings.redis) as client:
            client.execute_command(*words)

    def add_partition(self) -> None:
        """Give the topic one more partition, with a camera of its own."""
        self.partitions += 1
        with open_admin(self.settings.kafka) as admin:
            admin.create_partitions({self.settings.kafka.topic: self.partitions})
        added = self.partitions - 1
        self.traffic.add_camera(f"added-{added}", added)


def stack_settings(broker: str, redis_url: str) -> Settings:
    """The settings of every replica."""
    return Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": broker, "start": "earliest", "session_timeout_ms": round(SESSION_TIMEOUT_S * 1000)},
            # All that was written is compared at the end.
            "redis": {"url": redis_url, "max_scores": 10_000_000, "max_events": 10_000_000},
            "engine": {"bundle": BUNDLE, "backend": "openvino", "threads": 1},
            # The reference knows one gap for all cameras: it must not fall below three of their intervals.
            "decision": {"min_duration_s": 0.3, "merge_gap_s": 0.9, "update_interval_s": 0.4},
            "learning": {"enabled": False},
            "health": {"enabled": False},
            "http": {"port": 0},
        }
    )
