"""What the service counts and measures, for Prometheus. One registry a service, so that tests and the demo can have several."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_AGES_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics. ``camera_id`` labels only what an operator asks of one camera; the rest is of the service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = self._counter("frames", "Frames decoded", "camera_id")
        self.decoded = self._counter("decoded_frames", "Frames decoded, those read again included", "decoder")
        self.rejected = self._counter("rejected_messages", "Messages sent to the dead-letter topic", "reason")
        self.refilled = self._counter("refilled_frames", "Frames read again after a start to rebuild clips and states")
        self.lost = self._counter("lost_messages", "Messages that Kafka had deleted before they were read")
        self.scored = self._counter("scored_clips", "Clips scored")
        self.not_resident = self._counter(
            "not_resident_clips", "Clips that went up to the device whole, for more cameras than stay on it"
        )
        self.unscored = self._counter("unscored_frames", "Frames that completed no clip")
        self.events = self._counter("events", "Event entries written", "kind")
        self.steps = self._counter("steps", "Atomic steps in Redis", "outcome")
        self.batch_clips = self._histogram("micro_batch_clips", "Clips in a micro-batch", _CLIPS)
        self.batch_wait_s = self._histogram(
            "micro_batch_wait_seconds", "Time the oldest clip waited for its micro-batch", _SECONDS
        )
        self.decode_s = self._histogram("decode_seconds", "Time to decode the messages of one poll", _SECONDS)
        self.score_s = self._histogram("score_seconds", "Time to score one micro-batch", _SECONDS)
        self.publish_s = self._histogram("publish_seconds", "Time of one atomic step", _SECONDS)
        self.frame_age_s = self._histogram(
            "frame_age_seconds", "Age of a frame, by its capture time, when its score was stored", _AGES_S
        )
        self.score = self._gauge("score", "Newest score", "camera_id")
        self.lag = self._gauge("lag_messages", "Messages behind the newest one", "partition")
        self.open_events = self._gauge("open_events", "Announced events that have not ended")
        self.partitions = self._gauge("partitions", "Partitions this consumer works on")
        self.engine_recoveries = self._counter("engine_recoveries", "Starts whose engine was not ready, by what was done", "how")
        self.engine = Info("oddsight_engine", "The engine and model in use", registry=self.registry)
        self.decoder = Info("oddsight_decoder", "The decoder in use", registry=self.registry)

    def exposition(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"oddsight_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"oddsight_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"oddsight_{name}", text, buckets=buckets, registry=self.registry)
