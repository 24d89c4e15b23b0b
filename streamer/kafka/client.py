"""Kafka clients as the service needs them, and a plain reason when there is no connection.

Every client is made here, so that consumer, producer and administration agree on address and security. Before kafka-python
tries, address and password are probed (:mod:`streamer.kafka.diagnostics`); what kafka-python then finds out it only logs, so its log
is read during the attempt.

Facts about kafka-python 3.0.12 that the users of :func:`make_consumer` rely on:

- ``auto_offset_reset="none"``: an offset the broker no longer has raises ``OffsetOutOfRangeError`` from ``poll()``, whose
  ``args[0]`` is ``{TopicPartition: offset}``. A partition with neither a committed offset nor a ``seek`` raises
  ``NoOffsetForPartitionError``, paused or not. The embedded broker does not signal the former: it answers with nothing.
- A rebalance listener runs in the client's own thread while the caller waits in ``poll()``: ``seek`` and ``pause`` are fine
  there, whatever asks the broker raises ``RuntimeError``. The first assignment may be empty, with the real one after it.
- A dead broker raises nothing: ``poll()`` returns ``{}`` while the client reconnects in its own thread. ``commit`` and
  ``committed`` wait for it for ever unless given ``timeout_ms``, ``end_offsets`` and ``beginning_offsets`` for 15 s; then
  they raise ``KafkaTimeoutError``.
"""

import importlib.util
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import kafka
import structlog
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    TopicAlreadyExistsError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl import get_sasl_mechanism

from deploy.errors import ConfigError
from streamer.config import KafkaSettings
from streamer.errors import BrokerUnavailable
from streamer.kafka.diagnostics import Address, SaslLogin, diagnose_broker, diagnose_connection, parse_address

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest message sent; a topic's ``max.message.bytes`` must allow it."""

_BOOTSTRAP_TIMEOUT_MS = 5_000
_BATCH_OVERHEAD_BYTES = 1024 * 1024

_reading_log = threading.Lock()
"""The library's log is one for all threads: two that read it at once would take each other's reasons, and leave it changed."""

log = structlog.get_logger(__name__)


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options that kafka-python's consumer, producer and administration client have in common."""
    return {
        "bootstrap_servers": [str(address) for address in _addresses(settings)],
        "client_id": "oddsight",
        "bootstrap_timeout_ms": _BOOTSTRAP_TIMEOUT_MS,
        # A broker that comes back after a long outage is found again within 2 s; the default is 30 s.
        "reconnect_backoff_max_ms": 2_000,
        "request_timeout_ms": 15_000,
        "security_protocol": settings.security_protocol,
        "ssl_context": _tls_context(settings),
        **_sasl_options(settings),
    }


def make_producer(settings: KafkaSettings) -> kafka.KafkaProducer:
    """A producer for frames: few large requests, in order, acknowledged by all replicas.

    Its buffer has no limit of its own: whoever sends must bound what is not yet acknowledged.

    Raises:
        BrokerUnavailable: says why there is no connection.
        ConfigError: an address or the ``ca_file`` is unusable.
    """
    return _open(
        settings,
        kafka.KafkaProducer,
        acks="all",
        batch_size=1024 * 1024,
        linger_ms=5,
        max_request_size=MAX_FRAME_BYTES,
        compression_type=None,
        # A broker that forgets its producers when it restarts refuses an idempotent one for ever; with one request
        # in flight order holds all the same, and the price is that a frame whose acknowledgement is lost is sent twice.
        enable_idempotence=False,
        max_in_flight_requests_per_connection=1,
    )


def make_consumer(settings: KafkaSettings, **overrides: Any) -> kafka.KafkaConsumer:
    """A consumer in the service's group, not yet subscribed; it commits only when told and seeks only when told.

    Args:
        settings: Where to connect, and the group.
        overrides: kafka-python options that win over these.

    Raises:
        BrokerUnavailable: says why there is no connection.
        ConfigError: an address or the ``ca_file`` is unusable.
    """
    return _open(
        settings,
        kafka.KafkaConsumer,
        **{
            "group_id": settings.consumer_group,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "max_poll_records": 64,
            "max_partition_fetch_bytes": 2 * 1024 * 1024,
            "fetch_max_bytes": 16 * 1024 * 1024,
            "fetch_max_wait_ms": 50,
            "session_timeout_ms": settings.session_timeout_ms,
            "heartbeat_interval_ms": settings.session_timeout_ms // 3,
            "max_poll_interval_ms": 60_000,
            "check_crcs": True,
            **overrides,
        },
    )


def ensure_topics(settings: KafkaSettings, partitions: int = 4) -> None:
    """Create the topics of frames and of dead letters where they are missing; an existing one stays as it is.

    Where creating is not allowed this is a warning: the topics may be somebody else's to create.

    Raises:
        BrokerUnavailable: says why there is no connection, also when only the advertised addresses give none.
        ConfigError: an address or the ``ca_file`` is unusable.
    """
    with open_admin(settings) as admin:
        for topic in (settings.topic, settings.deadletter_topic):
            _ensure_topic(admin, topic, partitions)


@contextmanager
def open_admin(settings: KafkaSettings) -> Iterator[kafka.KafkaAdminClient]:
    """An administration client whose errors, and those of brokers it is sent to, are BrokerUnavailable."""
    admin = _open(settings, kafka.KafkaAdminClient)
    try:
        _check_advertised(admin.describe_cluster())
        yield admin
    except KafkaError as error:
        raise BrokerUnavailable(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        admin.close()


def silence_kafka_log() -> None:
    """Keep kafka-python off the terminal: it logs several errors for every attempt to reconnect. Call once at start."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _open(settings: KafkaSettings, client_class: Callable[..., Any], **options: Any) -> Any:
    _require_crc32c()
    opened: list[KafkaNetClient] = []
    with _reasons_from_log() as reasons:
        _check_addresses(settings)
        try:
            return client_class(**connection_options(settings), **options, kafka_client=_remembering(opened))
        except KafkaError as error:
            for client in opened:  # its thread would go on reconnecting
                client.close()
            raise BrokerUnavailable(_explain(settings, reasons, error)) from error


def _remembering(opened: list[KafkaNetClient]) -> Callable[..., KafkaNetClient]:
    def make(**options: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**options))
        return opened[-1]

    return make


def _require_crc32c() -> None:
    if importlib.util.find_spec("crc32c") is None:
        raise BrokerUnavailable(
            "the package crc32c is not installed, and without it every frame costs kafka-python 11 ms: "
            "pip install 'kafka-python[crc32c]'"
        )


def _addresses(settings: KafkaSettings) -> list[Address]:
    try:
        return [parse_address(part) for part in settings.bootstrap_servers.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"kafka.bootstrap_servers: {error}") from error


def _sasl_options(settings: KafkaSettings) -> dict[str, Any]:
    if not settings.security_protocol.startswith("SASL"):
        return {}
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value() if settings.password else None,
    }


def _login(settings: KafkaSettings) -> SaslLogin | None:
    options = _sasl_options(settings)
    if not options:
        return None
    mechanism = get_sasl_mechanism(settings.sasl_mechanism)
    return SaslLogin(settings.sasl_mechanism, options["sasl_plain_username"], lambda: mechanism(**options))


def _check_addresses(settings: KafkaSettings) -> None:
    """One bootstrap server that answers is enough; where none does, all faults are told."""
    tls = _tls_context(settings)
    login = _login(settings)
    addresses = _addresses(settings)
    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        faults = list(pool.map(lambda address: diagnose_broker(address, tls, login), addresses))
    if None not in faults:
        raise BrokerUnavailable("Kafka at " + "; ".join(fault for fault in faults if fault))


def _tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"kafka.ca_file: {settings.ca_file} is no readable PEM file of certificates ({error})") from error


def _check_advertised(cluster: dict[str, Any]) -> None:
    """The first address may work while the one the broker sends its clients on to does not."""
    addresses = [Address(broker["host"], broker["port"]) for broker in cluster["brokers"]]
    faults = [diagnose_connection(address) for address in addresses]
    if faults and all(faults):
        raise BrokerUnavailable(
            f"Kafka answers, but sends its clients on to {faults[0]}; the broker's advertised.listeners name that address"
        )


def _ensure_topic(admin: kafka.KafkaAdminClient, topic: str, partitions: int) -> None:
    if topic in admin.list_topics():
        return
    configs = {"max.message.bytes": str(MAX_FRAME_BYTES + _BATCH_OVERHEAD_BYTES)}
    try:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": -1, "configs": configs}})
    except TopicAlreadyExistsError:  # another of us was faster
        return
    except AuthorizationError as error:
        log.warning("topic_not_created", topic=topic, reason=f"not allowed ({error}); it must be created for us")
        return
    log.info("topic_created", topic=topic, partitions=partitions)


class _ReasonHandler(logging.Handler):
    """Collects the exceptions that kafka-python only logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        self.reasons += [argument for argument in arguments if isinstance(argument, Exception)]


@contextmanager
def _reasons_from_log() -> Iterator[list[Exception]]:
    logger = logging.getLogger("kafka.net")
    with _reading_log:
        handler, level, propagate = _ReasonHandler(), logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        try:
            yield handler.reasons
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _explain(settings: KafkaSettings, reasons: list[Exception], error: Exception) -> str:
    last = reasons[-1] if reasons else error
    return (
        f"Kafka at {settings.bootstrap_servers}: answers, but then gives no cluster ({last}). It may ask for a user name and "
        f"password: check kafka.security_protocol (now {settings.security_protocol}) and the broker's log"
    )
