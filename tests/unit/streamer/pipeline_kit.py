"""Builds a pipeline of shipped fakes around the real stages, on tiny real pictures."""

from pathlib import Path

import cv2
import numpy as np

from deploy.batching import MicroBatcher
from deploy.bundle import Bundle, Calibration, Manifest, ModelCard
from deploy.decoders.registry import CpuDecoder
from deploy.engine import Engine
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.monitoring import Health, Metrics
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.decide import Decider
from streamer.pipeline.decode import MessageDecoder
from streamer.pipeline.loop import Pipeline, Stages
from streamer.pipeline.score import Scorer
from streamer.types import FrameMessage, Partition
from tests.harness.fakes import (
    BrightnessEngine,
    FakeClock,
    MeanBrightnessEngine,
    MemoryDeadLetters,
    MemoryFrameSource,
    MemoryProgressStore,
    MemoryTopic,
)

SPEC = ClipSpec(length=3, height_px=16, width_px=16)
RECURRENT = ClipSpec(length=1, height_px=16, width_px=16, state_shape=MeanBrightnessEngine.state_shape, state_warmup_frames=24)
CALIBRATION = Calibration(median=0.1, q99=0.3, q999=0.4, enter=0.5, exit=0.4, frames=100)
BUNDLE = Bundle(
    path=Path("nowhere"),
    manifest=Manifest(
        format=1,
        model_id="brightness-0",
        model=ModelCard(kind="brightness", config={}),
        spec=SPEC,
        metrics={},
        versions={},
        files={},
    ),
    calibration=CALIBRATION,
)
SETTINGS = Settings.model_validate({"decision": {"min_duration_s": 0.1, "merge_gap_s": 0.3}})
FRAME_MS = 100


def picture(brightness: float) -> bytes:
    """A PNG of one grey, exact."""
    done, encoded = cv2.imencode(".png", np.full((16, 16), round(brightness * 255), np.uint8))
    assert done
    return encoded.tobytes()


def message(
    partition: int, offset: int, camera_id: str | None, brightness: float | bytes, *, at_ms: int | None = None
) -> FrameMessage:
    """One message; ``brightness`` may be raw bytes. Frames are 100 ms apart by their offset unless ``at_ms`` says otherwise."""
    value = brightness if isinstance(brightness, bytes) else picture(brightness)
    captured_at_ms = offset * FRAME_MS if at_ms is None else at_ms
    return FrameMessage(
        partition=Partition("frames", partition),
        offset=offset,
        key=None if camera_id is None else camera_id.encode(),
        value=value,
        headers=(("captured_at_ms", str(captured_at_ms).encode()),),
        timestamp_ms=0,
    )


def run_of(camera_id: str, brightnesses: list[float], partition: int = 0) -> list[FrameMessage]:
    """One camera alone on a partition."""
    return [message(partition, offset, camera_id, brightness) for offset, brightness in enumerate(brightnesses)]


class Rig:
    """A topic, a store and dead letters that outlive pipelines, and a pipeline on them."""

    def __init__(
        self,
        messages: list[FrameMessage],
        max_clips: int = 4,
        poll_messages: int = 5,
        spec: ClipSpec = SPEC,
        engine: Engine | None = None,
        score_scale: float = 1.0,
    ) -> None:
        self.topic = MemoryTopic(messages)
        self.store = MemoryProgressStore()
        self.dead_letters = MemoryDeadLetters()
        self.clock = FakeClock(tick_s=0.002)
        self._max_clips = max_clips
        self._poll_messages = poll_messages
        self._score_scale = score_scale
        self.decoder = MessageDecoder(CpuDecoder(spec, threads=1))
        self.engine = engine or (BrightnessEngine(spec) if spec.state_shape is None else MeanBrightnessEngine(spec))
        self.start()

    def start(self) -> None:
        """A new consumer with nothing in memory, as after a crash."""
        self.source = MemoryFrameSource(self.topic, self._poll_messages)
        self.metrics = Metrics()
        self.health = Health(self.clock)
        decider = Decider(SETTINGS, BUNDLE, "brightness", FakeClock(1.0))
        self.pipeline = Pipeline(
            Stages(
                source=self.source,
                decoder=self.decoder,
                clips=ClipBuffer(self.engine.spec, 5_000),
                batcher=MicroBatcher(self._max_clips, 0.05),
                scorer=Scorer(self.engine, self._score_scale, decider.least_exit, self.metrics),
                decider=decider,
                store=self.store,
                dead_letters=self.dead_letters,
                metrics=self.metrics,
                health=self.health,
                start="earliest",
                clock_s=self.clock,
                wall_clock_s=self.clock,
            )
        )

    def steps(self, count: int) -> None:
        """Turn the loop ``count`` times."""
        for _ in range(count):
            self.pipeline.step()

    def finish(self) -> None:
        """Turn the loop until every message is behind, bounded: ten outages in a row take 5,000 turns of backing off."""
        for _ in range(10_000):
            self.pipeline.step()
            if all(self.done(partition) for partition in self.topic.partitions):
                return
        raise AssertionError(f"not done: {self.store.progress}")

    def done(self, partition: Partition) -> bool:
        """Whether all messages of a partition are behind."""
        return self.store.read(partition).next_offset == self.source.bounds(partition)[1]

    def events(self, *names: str) -> list[tuple[str, ...]]:
        """The events written, as tuples of some fields."""
        return [tuple(event.get(name, "") for name in names) for event in self.store.events]

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"oddsight_{name}", labels) or 0.0
