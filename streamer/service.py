"""The running service: builds the parts, turns the loop until told to stop, and takes everything down in order."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from deploy.batching import MicroBatcher
from deploy.bundle import Bundle, read_bundle
from deploy.decoders.registry import STAY_ON_DEVICE, CpuDecoder, load_decoder
from deploy.engine import Engine, EngineRequest, resident
from deploy.errors import ConfigError
from deploy.selection.select import load_serving_engine
from deploy.validation.accuracy import check_decoder
from deploy.validation.admission import LoadedEngine
from streamer.config import Settings
from streamer.kafka.client import ensure_topics, silence_kafka_log
from streamer.kafka.dead_letters import KafkaDeadLetters
from streamer.kafka.source import KafkaFrameSource
from streamer.monitoring import Health, Metrics, serve_http
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.decide import Decider
from streamer.pipeline.decode import MessageDecoder
from streamer.pipeline.loop import Pipeline, Stages
from streamer.pipeline.score import Scorer
from streamer.redis.client import check_redis, make_redis
from streamer.redis.progress import RedisProgressStore

log = structlog.get_logger("oddsight.service")

_MAX_DECODE_THREADS = 8


def run_service(settings: Settings, stop: threading.Event) -> None:
    """Run one consumer until ``stop`` is set, then finish what has been read and leave.

    Raises:
        ConfigError, BundleError, EngineError, DecoderError: before anything is consumed; the last two also when they fail later.
        BrokerUnavailable, RedisUnavailable: Kafka or Redis cannot be reached at start, or Kafka refuses us later.
    """
    silence_kafka_log()
    bundle = read_bundle(_bundle_path(settings))
    metrics, health = Metrics(), Health()
    with ExitStack() as stack:
        port = stack.enter_context(serve_http(settings.http, metrics, health))
        loaded = stack.enter_context(_engine(settings, bundle, metrics))
        decoder = stack.enter_context(_decoder(settings, bundle, loaded.engine, metrics))
        pipeline = Pipeline(_stages(settings, bundle, (decoder, loaded), (metrics, health), stack))
        log.info("running", topic=settings.kafka.topic, http_port=port, model_id=bundle.model_id, **loaded.engine.describe())
        while not stop.is_set():
            pipeline.step()
        log.info("stopping: finishing what has been read")
        pipeline.drain()


def _bundle_path(settings: Settings) -> Path:
    if settings.engine.bundle is None:
        raise ConfigError("engine.bundle must be set, or --bundle given: the folder that oddsight-train fit wrote")
    return settings.engine.bundle


@contextmanager
def _engine(settings: Settings, bundle: Bundle, metrics: Metrics) -> Iterator[LoadedEngine]:
    chosen = settings.engine
    request = EngineRequest(
        max_clips=settings.batch.max_clips, threads=chosen.threads, gpu_cached_cameras=chosen.gpu_cached_cameras
    )
    loaded = load_serving_engine(
        bundle,
        request,
        engine=chosen.backend,
        precision=chosen.precision,
        performance_hint=chosen.performance_hint,
        on_unavailable=chosen.on_unavailable,
    )
    engine = loaded.engine
    if loaded.default_rejected is not None:
        log.warning("the bundle's default engine is not used", reason=loaded.default_rejected)
    if loaded.recovery is not None:
        log.warning(
            "the requested engine was not available", action=loaded.recovery, running=engine.name, reason=loaded.recovery_reason
        )
        metrics.engine_recoveries.labels(loaded.recovery).inc()
    scale = round(loaded.score_scale, 4)
    log.info("engine chosen", **loaded.log_fields(), score_scale=scale, gpu_cached_cameras=engine.gpu_cached_cameras)
    metrics.engine.info({"name": engine.name, "model_id": bundle.model_id, **engine.describe()})
    try:
        yield loaded
    finally:
        engine.close()


@contextmanager
def _decoder(settings: Settings, bundle: Bundle, engine: Engine, metrics: Metrics) -> Iterator[MessageDecoder]:
    name, threads = settings.decode.backend, min(_MAX_DECODE_THREADS, os.cpu_count() or 1)
    on_device = name in STAY_ON_DEVICE and resident(engine) is not None
    pictures = load_decoder(name, bundle.spec, threads, on_device=on_device)
    try:
        if pictures.name != CpuDecoder.name:
            error = check_decoder(pictures, engine, bundle)
            log.info(
                "decoder passed the gate", largest_score_error=round(error, 5), stays_on_device=on_device, **pictures.describe()
            )
        metrics.decoder.info({"name": pictures.name, **pictures.describe()})
        yield MessageDecoder(pictures)
    finally:
        pictures.close()


def _stages(
    settings: Settings,
    bundle: Bundle,
    parts: tuple[MessageDecoder, LoadedEngine],
    watch: tuple[Metrics, Health],
    stack: ExitStack,
) -> Stages:
    """Connect to Redis, then Kafka, and build the stages; ``stack`` closes them."""
    decoder, loaded = parts
    metrics, health = watch
    decider = Decider(settings, bundle, loaded.engine.name)
    client = make_redis(settings.redis)
    stack.callback(client.close)
    check_redis(client)
    ensure_topics(settings.kafka)
    dead_letters = KafkaDeadLetters(settings.kafka)
    stack.callback(dead_letters.close)
    return Stages(
        source=KafkaFrameSource(settings.kafka),
        decoder=decoder,
        clips=ClipBuffer(bundle.spec, round(settings.decision.max_gap_s * 1000)),
        batcher=MicroBatcher(settings.batch.max_clips, settings.batch.max_wait_ms / 1000),
        scorer=Scorer(loaded.engine, loaded.score_scale, decider.least_exit, metrics),
        decider=decider,
        store=RedisProgressStore(client, settings.redis, settings.kafka.consumer_group),
        dead_letters=dead_letters,
        metrics=metrics,
        health=health,
        start=settings.kafka.start,
    )
