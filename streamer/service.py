"""The running service: builds the pipeline from the settings, and runs it until it is stopped."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import structlog

from deploy.batching import MicroBatcher
from deploy.bundle import Bundle
from deploy.engine import Engine, EngineRequest, caching_engine
from deploy.image import CpuDecoder
from deploy.registry import GPU_DECODERS, load_decoder
from deploy.score_maps import Grid
from deploy.selection import load_serving_engine
from deploy.validation.accuracy import check_decoder
from deploy.validation.admission import LoadedEngine, load_validated
from streamer.config import Settings, served_bundle
from streamer.heap import Heap
from streamer.http_server import serve_http
from streamer.kafka.client import check_kafka_settings, ensure_topics, silence_kafka_log
from streamer.kafka.deadletters import KafkaDeadLetters
from streamer.kafka.topics import KafkaFrameSource
from streamer.monitoring import Health, Metrics
from streamer.pipeline.adaptation import CameraAdaptation
from streamer.pipeline.areas import AreaRules, KnownAreas
from streamer.pipeline.capture_times import CaptureTimes
from streamer.pipeline.clips import ClipBuffer, MessageDecoder
from streamer.pipeline.decide import Decider
from streamer.pipeline.health import CameraHealth
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.loop import Pipeline
from streamer.pipeline.memories import MemorySnapshots
from streamer.pipeline.profiles import CameraProfiles, DriftWatch, FootageCheck
from streamer.pipeline.recalibration import Recalibration
from streamer.pipeline.registry import CameraRegistry
from streamer.pipeline.score import Scorer
from streamer.pipeline.scoring import BatchScoring
from streamer.pipeline.shedding import Shedding
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.script import STEP
from streamer.status import told_status

log = structlog.get_logger("oddsight.service")

_MAX_DECODE_THREADS = 8


def run_service(settings: Settings, stop: threading.Event, step_script: str = STEP) -> None:
    """Run one consumer until ``stop`` is set; then finish what has been read and leave the group.

    ``step_script`` is another one than the service's only where a test must fail without it.

    Raises:
        ConfigError, BundleError: at start, before anything is consumed.
        EngineError, DecoderError, BrokerUnavailable: likewise, or if engine, decoder or Kafka fails for good later.
        RedisUnavailable: Redis cannot be reached at start, or refuses to be written to.
    """
    silence_kafka_log()
    heap = Heap()
    with ExitStack() as stack:
        pipeline = _build_pipeline(settings, stack, step_script)
        heap.settle()
        while not stop.is_set():
            pipeline.step()
            heap.trim_if_due()
        log.info("stopping: finishing what has been read")
        pipeline.drain()


def check_service(settings: Settings) -> None:
    """Check what :func:`run_service` checks before it connects to Kafka and Redis; raises as it does.

    A plan that ``engine.on_unavailable`` has built at start is built here, too; a Redis Cluster is asked for its nodes.
    """
    check_kafka_settings(settings.kafka)
    with ExitStack() as stack:
        _load_parts(settings, served_bundle(settings), Metrics(), stack)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What can be made and checked without a connection."""

    loaded: LoadedEngine
    decoder: MessageDecoder
    decider: Decider
    progress_store: RedisProgressStore
    profile_store: RedisProfileStore
    areas: KnownAreas
    profiles: CameraProfiles
    learning: CameraLearning
    adaptation: CameraAdaptation


def _load_parts(settings: Settings, bundle: Bundle, metrics: Metrics, stack: ExitStack, step_script: str = STEP) -> _Parts:
    loaded = _load_engine(settings, bundle, metrics, stack)
    decoder = _load_decoder(settings, bundle, loaded.engine, metrics, stack)
    decider = Decider(settings, bundle, loaded.engine.name)
    client = stack.enter_context(make_redis(settings.redis))
    profile_store = RedisProfileStore(client, settings.redis)
    profiles = CameraProfiles(profile_store, bundle, settings, metrics)
    learning = CameraLearning(bundle, settings, profiles, metrics)
    adaptation = CameraAdaptation(bundle, settings, learning, profiles, profile_store, metrics)
    stack.callback(adaptation.close)
    return _Parts(
        loaded=loaded,
        decoder=decoder,
        decider=decider,
        progress_store=RedisProgressStore(client, settings.redis, settings.kafka.consumer_group, step_script),
        profile_store=profile_store,
        areas=KnownAreas(settings, RedisAreaStore(client, settings.redis)),
        profiles=profiles,
        learning=learning,
        adaptation=adaptation,
    )


def _build_pipeline(settings: Settings, stack: ExitStack, step_script: str) -> Pipeline:
    """Load the engine and the decoder and connect to Redis and Kafka; ``stack`` closes everything."""
    bundle = served_bundle(settings)
    metrics, health = Metrics(), Health()
    port = stack.enter_context(serve_http(settings.http, metrics, health))
    parts = _load_parts(settings, bundle, metrics, stack, step_script)
    loaded, decider, profiles = parts.loaded, parts.decider, parts.profiles
    parts.progress_store.try_step()
    profiles.load()
    parts.areas.load()
    heatmap_threshold, grid = decider.least_exit(profiles.all()), Grid.find(bundle)
    camera_health = CameraHealth(settings, parts.profile_store, metrics, grid=grid)
    camera_health.load()
    ensure_topics(settings.kafka)
    clips = ClipBuffer(bundle.spec, round(settings.decision.max_gap_s * 1000))
    registry = CameraRegistry(settings)
    scorer = _make_scorer(loaded, bundle, grid, heatmap_threshold, metrics, stack)
    executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="score"))
    pipeline = Pipeline(
        source=KafkaFrameSource(settings.kafka),
        decoder=parts.decoder,
        capture_times=CaptureTimes(settings, bundle.spec.fps, metrics),
        clips=clips,
        shedding=Shedding(settings, clips, parts.learning, metrics),
        registry=registry,
        profiles=profiles,
        footage_check=FootageCheck(bundle, round(settings.decision.max_gap_s * 1000), metrics),
        drift_watch=DriftWatch(metrics),
        learning=parts.learning,
        adaptation=parts.adaptation,
        camera_health=camera_health,
        recalibration=Recalibration(settings, profiles, parts.profile_store, grid),
        scorer=scorer,
        scoring=BatchScoring(
            MicroBatcher(settings.batch.max_clips, settings.batch.max_wait_ms / 1000),
            scorer,
            profiles,
            parts.learning,
            executor,
            metrics,
        ),
        memories=MemorySnapshots(bundle.model_id, scorer, registry, parts.learning),
        areas=AreaRules(settings, parts.areas, decider),
        decider=decider,
        store=parts.progress_store,
        dead_letters=stack.enter_context(closing(KafkaDeadLetters(settings.kafka, metrics))),
        metrics=metrics,
        health=health,
        start=settings.kafka.start,
    )
    described = {"engine_version" if name == "version" else name: text for name, text in loaded.engine.describe().items()}
    about = {**described, "model_id": bundle.model_id, "engine": loaded.engine.name}
    stack.enter_context(told_status(settings.redis, metrics, health, about))
    log.info("running", topic=settings.kafka.topic, http_port=port, model_id=bundle.model_id, **loaded.engine.describe())
    return pipeline


def _load_engine(settings: Settings, bundle: Bundle, metrics: Metrics, stack: ExitStack) -> LoadedEngine:
    chosen = settings.engine
    loaded = load_serving_engine(
        bundle,
        EngineRequest(max_clips=settings.batch.max_clips, threads=chosen.threads, gpu_cached_cameras=chosen.gpu_cached_cameras),
        engine=chosen.backend,
        precision=chosen.precision,
        performance_hint=chosen.performance_hint,
        on_unavailable=chosen.on_unavailable,
    )
    engine = loaded.engine
    stack.callback(engine.close)
    if loaded.default_rejected is not None:
        log.warning("the bundle's default engine is not used", reason=loaded.default_rejected)
    if loaded.recovery is not None:
        reason = loaded.recovery_reason
        log.warning("the requested engine was not available", action=loaded.recovery, running=engine.name, reason=reason)
        metrics.engine_recoveries.labels(loaded.recovery).inc()
    scale = round(loaded.score_scale, 4)
    log.info("engine chosen", **loaded.log_fields(), score_scale=scale, gpu_cached_cameras=engine.gpu_cached_cameras)
    metrics.engine.info({"name": engine.name, "model_id": bundle.model_id, **engine.describe()})
    return loaded


def _make_scorer(
    loaded: LoadedEngine, bundle: Bundle, grid: Grid | None, heatmap_threshold: float, metrics: Metrics, stack: ExitStack
) -> Scorer:
    # After a fallback, events would name the wrong engine; the next start chooses again.
    load_again = None if loaded.recovery == "fallback" else partial(_load_again, bundle, loaded.request, stack)
    default_profile, scale = bundle.default_profile, loaded.score_scale
    return Scorer(loaded.engine, scale, heatmap_threshold, metrics, default_profile, grid, load_again)


def _load_again(bundle: Bundle, request: EngineRequest, stack: ExitStack) -> tuple[Engine, float]:
    loaded = load_validated(bundle, request)
    stack.callback(loaded.engine.close)
    return loaded.engine, loaded.score_scale


def _load_decoder(settings: Settings, bundle: Bundle, engine: Engine, metrics: Metrics, stack: ExitStack) -> MessageDecoder:
    name, threads = settings.decode.backend, min(_MAX_DECODE_THREADS, os.cpu_count() or 1)
    on_device = name in GPU_DECODERS and caching_engine(engine) is not None
    images = load_decoder(name, bundle.spec, threads, on_device=on_device)
    stack.callback(images.close)
    described = images.describe()
    if images.name != CpuDecoder.name:
        error = round(check_decoder(images, engine, bundle), 5)
        log.info("decoder passed the accuracy check", largest_score_error=error, stays_on_device=on_device, **described)
    metrics.decoder.info({"name": images.name, **described})
    return MessageDecoder(images)
