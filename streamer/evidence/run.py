"""``oddsight-stream evidence``: stores pictures and clips of events, and shows what the cameras show now.

A process of its own beside the service: it costs scoring nothing, may be restarted at any time, and takes up what it had not
done. Frames come from Kafka again, events through a Redis consumer group, so that several processes share them.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Final

import structlog

from streamer.config import HttpSettings, Settings
from streamer.evidence.footage import EventFootage
from streamer.evidence.recorder import EvidenceRecorder
from streamer.evidence.store import EvidenceStore
from streamer.evidence.writer import EvidenceWriter
from streamer.http_server import serve_http
from streamer.interfaces import BrokerUnavailable, RedisUnavailable
from streamer.kafka.client import silence_kafka_log
from streamer.kafka.history import MessageHistory
from streamer.monitoring import EvidenceMetrics, Health
from streamer.pipeline.areas import KnownAreas
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import check_redis, make_redis
from streamer.redis.evidence import RedisEvidence

log = structlog.get_logger("oddsight.evidence")

_RETRY_S: Final = 2.0


def run_evidence(settings: Settings, stop: threading.Event) -> None:
    """Store evidence until ``stop`` is set; what is being written then is finished.

    Raises:
        ConfigError: ``evidence.dir`` is not set, or cannot be written to.
        BrokerUnavailable, RedisUnavailable: at start.
    """
    silence_kafka_log()
    metrics, health = EvidenceMetrics(), Health()
    store = EvidenceStore(settings.evidence, metrics)
    with ExitStack() as stack:
        client = stack.enter_context(make_redis(settings.redis))
        check_redis(client)
        live, clips = (stack.enter_context(closing(MessageHistory(settings.kafka))) for _ in range(2))
        if settings.evidence.port is not None:
            http = HttpSettings(host=settings.evidence.host, port=settings.evidence.port)
            log.info("serving metrics", port=stack.enter_context(serve_http(http, metrics, health, section="evidence")))
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="evidence"))
        areas = KnownAreas(settings, RedisAreaStore(client, settings.redis))
        writer = EvidenceWriter(areas, store, EventFootage(clips))
        recorder = EvidenceRecorder(settings, store, areas, RedisEvidence(client, settings.redis), live, writer, pool, metrics)
        log.info("storing evidence", dir=store.files.place)
        _follow(recorder, health, stop)


def _follow(recorder: EvidenceRecorder, health: Health, stop: threading.Event) -> None:
    while not stop.is_set():
        health.beat()
        try:
            recorder.step()
            health.problem = recorder.problem
        except (BrokerUnavailable, RedisUnavailable) as error:
            health.problem = str(error)
            log.warning("waiting before the next attempt", error=str(error), retry_in_s=_RETRY_S)
            stop.wait(_RETRY_S)
