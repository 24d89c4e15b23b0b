"""What a running service says of itself in Redis, for whoever shows the whole system: once a second, on a thread of its own."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from uuid import uuid4

from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.monitoring import Health, Metrics
from streamer.redis.client import make_redis
from streamer.redis.status import put_status

_EVERY_S = 1.0


@contextmanager
def told_status(settings: RedisSettings, metrics: Metrics, health: Health, about: Mapping[str, str]) -> Iterator[None]:
    """Write the service's status until the block ends. ``about``: what does not change, such as its engine.

    A Redis that does not answer is no concern of this thread: the service itself waits for it, and says so.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=_tell, args=(settings, metrics, health, about, stopped), name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _tell(settings: RedisSettings, metrics: Metrics, health: Health, about: Mapping[str, str], stopped: threading.Event) -> None:
    instance, started_at_ms = uuid4().hex[:12], round(time.time() * 1000)
    origin = {"host": socket.gethostname(), "pid": str(os.getpid()), "version": version("oddsight")}
    rate = _Rate()
    with make_redis(settings) as client:
        while not stopped.wait(_EVERY_S):
            fields = {"schema": "1", **origin, **about, "started_at_ms": str(started_at_ms), **status_fields(metrics)}
            fields |= {"ready": health.ready() or "", "frames_per_s": f"{rate.next(float(fields['frames_total'])):.1f}"}
            try:
                put_status(client, settings, instance, fields)
            except RedisUnavailable:
                continue


class _Rate:
    """Of a counter, over the last few seconds."""

    def __init__(self) -> None:
        self._value, self._at_s, self._rate = 0.0, time.monotonic(), 0.0

    def next(self, value: float) -> float:
        now_s = time.monotonic()
        newest = (value - self._value) / max(1e-3, now_s - self._at_s)
        self._rate += (newest - self._rate) / 3
        self._value, self._at_s = value, now_s
        return self._rate


def status_fields(metrics: Metrics) -> dict[str, str]:
    """The metrics that tell how a service fares, as text; those by reason as JSON."""
    totals: dict[str, float] = {}
    reasons: dict[str, dict[str, float]] = {"rejected_messages": {}, "shed_frames": {}, "events": {}}
    for metric in metrics.registry.collect():
        name = metric.name.removeprefix("oddsight_")
        for sample in metric.samples:
            part = sample.name.removeprefix(metric.name)
            if part in {"", "_total", "_sum", "_count"}:
                totals[name + part] = totals.get(name + part, 0.0) + sample.value
            if part == "_total" and name in reasons:
                label = sample.labels.get("reason") or sample.labels.get("kind", "")
                reasons[name][label] = reasons[name].get(label, 0.0) + sample.value
    clips, batches = totals["micro_batch_clips_sum"], totals["micro_batch_clips_count"]
    return {
        "cameras": f"{totals['cameras']:.0f}",
        "partitions": f"{totals['partitions']:.0f}",
        "lag": f"{totals.get('lag_messages', 0):.0f}",
        "frames_total": f"{totals.get('frames_total', 0):.0f}",
        "scored_total": f"{totals['scored_clips_total']:.0f}",
        "open_events": f"{totals['open_events']:.0f}",
        "batch_clips_mean": f"{clips / batches if batches else 0:.2f}",
        "rejected_total": json.dumps(reasons["rejected_messages"]),
        "shed_total": json.dumps(reasons["shed_frames"]),
    }
