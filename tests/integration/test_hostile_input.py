"""Hostile messages go to the dead-letter topic with a reason, and change no other score."""

import struct
import zlib
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from deploy.bundle import DEFAULT_BUNDLE
from streamer.config import KafkaSettings, RedisSettings
from streamer.demo.run import DEMO_VIDEOS
from streamer.ingest.sources import open_source
from streamer.kafka.client import make_consumer, make_producer
from tests.harness.brokers import Broker, unique_kafka_settings
from tests.harness.replay import produce
from tests.harness.service import Entry, Results, Service, running


def demo_pictures(count: int) -> list[bytes]:
    return [picture.encoded for _, picture in zip(range(count), open_source(str(DEMO_VIDEOS[0])), strict=False)]


def huge_png() -> bytes:
    """A valid PNG header that claims 60000 x 60000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


class NotUtf8(str):
    """A header name sent as bytes that are not UTF-8, which kafka-python would never send."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe"


HEADER_ONLY_JPEG = bytes.fromhex("ffd8 ffc0 000b 08 0030 0040 01 011100")
"""64 x 48 pixels, none of which follows."""
HOSTILE = {
    "empty": (b"camera", b""),
    "unsupported_type": (b"camera", b"GIF89a" + bytes(50)),
    "too_large": (b"camera", huge_png()),
    "damaged": (b"camera", demo_pictures(1)[0][:2_000]),
    "undecodable": (b"camera", HEADER_ONLY_JPEG),
    "bad_header": (b"camera", b"\xff\xd8\xff\xe0" + bytes(range(200))),
    "missing_key": (None, demo_pictures(1)[0]),
    "bad_key": (b"\xff\xfe", demo_pictures(1)[0]),
    "unknown_camera": (b"stranger", demo_pictures(1)[0]),
}
REASONS = [*HOSTILE, "unreadable"]
PARTITIONS = 4
ALLOWED = ["camera", "gate", "yard"]
LETTERS = sorted([*[reason for reason in REASONS if reason != "unknown_camera"] * PARTITIONS, "unknown_camera"])
"""Of a camera that is not watched, only the first message is one."""


def send_hostile(kafka: KafkaSettings) -> None:
    producer = make_producer(kafka)
    for key, value in HOSTILE.values():
        for partition in range(PARTITIONS):
            producer.send(kafka.topic, key=key, value=value, partition=partition)
    for partition in range(PARTITIONS):
        producer.send(kafka.topic, key=b"camera", value=b"", headers=[(NotUtf8("x"), b"")], partition=partition)
    producer.flush()
    producer.close()


def dead_letters(kafka: KafkaSettings, count: int) -> list[dict[str, bytes]]:
    """Headers of the dead letters, with the value under ``value``."""
    consumer: KafkaConsumer = make_consumer(kafka, group_id=None, auto_offset_reset="earliest")
    consumer.subscribe([kafka.deadletter_topic])
    found: list[dict[str, bytes]] = []
    for _ in range(100):
        for records in consumer.poll(timeout_ms=200).values():
            found += [{**dict(record.headers), "value": record.value} for record in records]
        if len(found) >= count:
            break
    consumer.close()
    return found


def scored(
    folder: Path, kafka: KafkaSettings, redis_settings: RedisSettings, messages: int
) -> tuple[dict[str, list[Entry]], str]:
    """Scores by camera and the metrics, after all messages are done."""
    results = Results(redis_settings)
    with running(
        Service(folder, kafka, redis_settings, engine={"bundle": str(DEFAULT_BUNDLE)}, registry={"allowed": ALLOWED})
    ) as service:
        service.wait_until(lambda: results.next_offsets() == messages, "end of the messages")
        metrics = service.get("/metrics")[1]
        assert service.stop() == 0
    return results.scores(), metrics


@pytest.mark.timeout(180)
def test_hostile_messages(tmp_path: Path, one_kafka_broker: Broker, redis_settings: RedisSettings) -> None:
    kafka_settings = unique_kafka_settings(one_kafka_broker.address)
    cameras = {"gate": demo_pictures(20), "yard": demo_pictures(15)}
    clean_kafka = kafka_settings.model_copy(update={"topic": kafka_settings.topic + "-clean"})
    clean_redis = redis_settings.model_copy(update={"prefix": redis_settings.prefix + "-clean"})
    frames = produce(clean_kafka, cameras)
    clean, _ = scored(tmp_path, clean_kafka, clean_redis, frames)

    assert produce(kafka_settings, cameras, last=10) == 20
    send_hostile(kafka_settings)
    produce(kafka_settings, cameras, first=10)
    dirty, metrics = scored(tmp_path, kafka_settings, redis_settings, frames + PARTITIONS * len(REASONS))
    letters = dead_letters(kafka_settings, len(LETTERS))

    assert {camera_id: [entry["captured_at_ms"] for entry in entries] for camera_id, entries in dirty.items()} == {
        camera_id: [entry["captured_at_ms"] for entry in entries] for camera_id, entries in clean.items()
    }
    for camera_id, entries in clean.items():
        expected = [float(entry["score"]) for entry in entries]
        assert [float(entry["score"]) for entry in dirty[camera_id]] == pytest.approx(expected, rel=1e-4)
    assert sorted(letter["reason"].decode() for letter in letters) == LETTERS
    for letter in letters:
        assert letter["value"] == HOSTILE.get(letter["reason"].decode(), (None, b""))[1]
        assert letter["topic"].decode() == kafka_settings.topic
        assert letter["detail"]
        assert f'oddsight_rejected_messages_total{{reason="{letter["reason"].decode()}"}} 4.0' in metrics
