"""Ped2's test clips replayed as twelve cameras; images are sent as they are on disk."""

import os
from pathlib import Path

import numpy as np
import pytest

from deploy.image import decode_image
from deploy.spec import ClipSpec
from streamer.config import KafkaSettings
from streamer.kafka.client import ensure_topics, make_producer
from trainer.data.footage import Footage

DATA = Path(os.environ.get("ODDSIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))
PED2 = DATA / "ped2"
FRAME_MS = 100
START_MS = 1_700_000_000_000

Cameras = dict[str, list[bytes]]


def ped2_cameras() -> Cameras:
    """Encoded frames by camera; skips the test if the data set is not available."""
    clips = PED2 / "testing" / "frames"
    if not clips.is_dir():
        pytest.skip(f"no Ped2 in {PED2}: set ODDSIGHT_DATA")
    return {clip.name: [frame.read_bytes() for frame in sorted(clip.glob("*.jpg"))] for clip in sorted(clips.iterdir())}


def footage(name: str, pictures: list[bytes], spec: ClipSpec) -> Footage:
    """A camera's frames as the offline evaluation reads them."""
    frames = np.stack([decode_image(picture, spec).frame for picture in pictures])
    return Footage(name, frames, np.arange(len(frames)), len(frames), ())


def produce(settings: KafkaSettings, cameras: Cameras, first: int = 0, last: int | None = None) -> int:
    """Send the frames ``first`` to ``last`` of all cameras, interleaved by time; returns their number."""
    ensure_topics(settings)
    producer = make_producer(settings)
    frames = 0
    for index in range(first, last or max(map(len, cameras.values()))):
        for camera_id, pictures in cameras.items():
            if index < len(pictures):
                headers = [("captured_at_ms", str(START_MS + index * FRAME_MS).encode())]
                producer.send(settings.topic, key=camera_id.encode(), value=pictures[index], headers=headers)
                frames += 1
        if index % 20 == 0:
            producer.flush()
    producer.flush()
    producer.close()
    return frames


def frame_index(captured_at_ms: str) -> int:
    """Index of a frame within its camera, from its capture time."""
    return (int(captured_at_ms) - START_MS) // FRAME_MS
